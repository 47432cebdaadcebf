// The elementwise work of a block and of the head, without gradient: loops of rows.hpp on a CPU,
// the kernels of kernels.cu on CUDA, and plain ATen for other types and where the kernels cannot
// be compiled. Legend: T tokens, H width, h heads, D head width, N rows, C tokens of a tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>

namespace prospect::fused {

struct Normed {
  at::Tensor sum; // input + delta, where there is a delta
  at::Tensor y;
  at::Tensor rstd; // one reciprocal root a row, fp32 (float64 for float64)
};

// Root-mean-square norm of [.., H], of `input + delta` where there is one.
Normed norm(
    const at::Tensor& input,
    const std::optional<at::Tensor>& delta,
    const at::Tensor& weight,
    double eps);

// The norm of `x` once more, bit for bit.
at::Tensor norm_again(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight);

// Gradients of x and of the weight. `grad_sum`, if defined, is added to the first.
std::pair<at::Tensor, at::Tensor> norm_backward(
    const at::Tensor& grad_y,
    const at::Tensor& x,
    const at::Tensor& rstd,
    const at::Tensor& weight,
    const at::Tensor& grad_sum);

// Turns queries [T, h, D] and keys [T, k, D] by angles with these cosines and sines [T, D/2];
// `sign` -1 turns back, which is the gradient.
std::pair<at::Tensor, at::Tensor> rotary(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& cos,
    const at::Tensor& sin,
    float sign);

// silu(gate) * up
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

struct SwigluGradients {
  at::Tensor gate;
  at::Tensor up;
  at::Tensor y; // where it was asked for again
};

// May overwrite `grad_y`.
SwigluGradients swiglu_backward(
    const at::Tensor& gate, const at::Tensor& up, const at::Tensor& grad_y, bool again);

// Takes a tile of logits [N, C], fp32, into the running state of each row [N], fp32.
void head_visit(
    const at::Tensor& logits,
    const at::Tensor& targets,
    int64_t first_token,
    const at::Tensor& maximum,
    const at::Tensor& sum,
    const at::Tensor& chosen);

// (onehot - exp(logit - normalizer)) * coefficient [N, C] in `kind`; overwrites fp32 logits.
at::Tensor head_gradient(
    const at::Tensor& logits,
    const at::Tensor& normalizers,
    const at::Tensor& coefficients,
    const at::Tensor& targets,
    int64_t first_token,
    at::ScalarType kind);

} // namespace prospect::fused
