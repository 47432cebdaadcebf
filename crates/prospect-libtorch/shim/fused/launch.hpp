// The kernels' grids and arguments. All tensors are contiguous, of fp32 or bf16.
#pragma once

#include <ATen/core/Tensor.h>

namespace prospect::fused {

// Whether a block's partial sums of this many columns fit into its shared memory.
bool norm_backward_fits(int64_t width);

void launch_norm(
    const at::Tensor& input,
    const at::Tensor& delta,
    const at::Tensor& weight,
    float eps,
    const at::Tensor& sum,
    const at::Tensor& y,
    const at::Tensor& rstd);
void launch_norm_again(
    const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight, const at::Tensor& y);
// Returns partial sums of the weight's gradient, fp32 [any, width].
at::Tensor launch_norm_backward(
    const at::Tensor& grad_y,
    const at::Tensor& x,
    const at::Tensor& rstd,
    const at::Tensor& weight,
    const at::Tensor& grad_sum,
    const at::Tensor& grad_x);
void launch_rotary(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& cos,
    const at::Tensor& sin,
    float sign,
    const at::Tensor& query_out,
    const at::Tensor& key_out);
void launch_swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& y);
void launch_swiglu_backward(
    const at::Tensor& gate,
    const at::Tensor& up,
    const at::Tensor& grad_y,
    const at::Tensor& grad_gate,
    const at::Tensor& grad_up,
    const at::Tensor& y);
void launch_head_visit(
    const at::Tensor& logits,
    const at::Tensor& targets,
    int64_t first_token,
    const at::Tensor& maximum,
    const at::Tensor& sum,
    const at::Tensor& chosen);
void launch_head_gradient(
    const at::Tensor& logits,
    const at::Tensor& normalizers,
    const at::Tensor& coefficients,
    const at::Tensor& targets,
    int64_t first_token,
    const at::Tensor& gradient);

} // namespace prospect::fused
