#include "ops.hpp"

#include "driver.hpp"
#include "launch.hpp"
#include "rows.hpp"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <limits>

namespace prospect::fused {
namespace {

using at::Tensor;
using rows::Bf16;

enum class Way { kRows, kKernels, kAten };

// By the type of the elements that are read and written.
Way way(const Tensor& x) {
  const auto kind = x.scalar_type();
  if (kind != at::kFloat && kind != at::kBFloat16) {
    return Way::kAten;
  }
  if (x.is_cpu()) {
    return is_emulated() ? Way::kKernels : Way::kRows;
  }
  return x.is_cuda() && has_kernels(x.device().index()) ? Way::kKernels : Way::kAten;
}

template <class T>
T* data(const Tensor& x) {
  return x.defined() ? static_cast<T*>(x.data_ptr()) : nullptr;
}

// Runs `count` rows of `width` elements on the threads of ATen.
template <class Op>
void run(const Op& op, int64_t count, int64_t width) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width));
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { op.run(begin, end); });
}

// Calls `body` with a null pointer of the element type of `x`, float or Bf16.
template <class Body>
void by_type(const Tensor& x, Body&& body) {
  if (x.scalar_type() == at::kFloat) {
    body(static_cast<float*>(nullptr));
  } else {
    body(static_cast<Bf16*>(nullptr));
  }
}

int64_t width_of(const Tensor& x) {
  return x.size(-1);
}

int64_t rows_of(const Tensor& x) {
  return x.numel() / std::max<int64_t>(1, x.size(-1));
}

// The type that sums are made in.
at::ScalarType wide(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// What `y` has to be multiplied by to be the norm, in the shape of a column.
Tensor column(const Tensor& rstd, const Tensor& x) {
  auto shape = x.sizes().vec();
  shape.back() = 1;
  return rstd.view(shape);
}

Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin, float sign) {
  const auto kind = wide(x);
  const auto halves = x.to(kind).chunk(2, -1);
  const auto c = cos.to(kind).unsqueeze(1), s = sin.to(kind).unsqueeze(1) * sign;
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1)
      .to(x.scalar_type());
}

} // namespace

Normed norm(
    const Tensor& given, const std::optional<Tensor>& added, const Tensor& weight, double eps) {
  const Tensor input = given.contiguous();
  const Tensor delta = added ? added->contiguous() : Tensor();
  const int64_t width = width_of(input), count = rows_of(input);
  const Way chosen = way(input);
  if (chosen == Way::kAten) {
    const Tensor x = delta.defined() ? input + delta : input;
    const Tensor exact = x.to(wide(x));
    const Tensor rstd = exact.square().mean(-1, true).add(eps).rsqrt();
    const Tensor y = (exact * rstd).to(x.scalar_type()) * weight;
    return {delta.defined() ? x : Tensor(), y, rstd.view({count})};
  }
  Normed out{
      delta.defined() ? at::empty_like(input) : Tensor(),
      at::empty_like(input),
      at::empty({count}, input.options().dtype(at::kFloat))};
  if (chosen == Way::kKernels) {
    launch_norm(input, delta, weight, static_cast<float>(eps), out.sum, out.y, out.rstd);
    return out;
  }
  by_type(input, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    run(rows::NormForward<T>{
            data<T>(input),
            data<T>(delta),
            data<T>(weight),
            static_cast<float>(eps),
            width,
            data<T>(out.sum),
            data<T>(out.y),
            data<float>(out.rstd)},
        count,
        width);
  });
  return out;
}

Tensor norm_again(const Tensor& x, const Tensor& rstd, const Tensor& weight) {
  const int64_t width = width_of(x);
  const Way chosen = way(x);
  if (chosen == Way::kAten) {
    return (x.to(wide(x)) * column(rstd, x)).to(x.scalar_type()) * weight;
  }
  Tensor y = at::empty_like(x);
  if (chosen == Way::kKernels) {
    launch_norm_again(x, rstd, weight, y);
    return y;
  }
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    run(rows::NormApply<T>{data<T>(x), data<float>(rstd), data<T>(weight), width, data<T>(y)},
        rows_of(x),
        width);
  });
  return y;
}

std::pair<Tensor, Tensor> norm_backward(
    const Tensor& given,
    const Tensor& x,
    const Tensor& rstd,
    const Tensor& weight,
    const Tensor& given_sum) {
  const Tensor grad_y = given.contiguous();
  const Tensor grad_sum = given_sum.defined() ? given_sum.contiguous() : Tensor();
  const int64_t width = width_of(x), count = rows_of(x);
  const Way chosen = way(x);
  if (chosen == Way::kAten || (chosen == Way::kKernels && !norm_backward_fits(width))) {
    const auto kind = wide(x);
    const Tensor root = column(rstd, x), normed = x.to(kind) * root, grad = grad_y.to(kind);
    const Tensor scaled = grad * weight.to(kind);
    Tensor grad_x = root * (scaled - normed * (scaled * normed).mean(-1, true));
    if (grad_sum.defined()) {
      grad_x = grad_x + grad_sum;
    }
    const Tensor products = grad * normed.to(x.scalar_type()).to(kind);
    return {
        grad_x.to(x.scalar_type()),
        products.reshape({count, width}).sum(0).to(weight.scalar_type())};
  }
  Tensor grad_x = at::empty_like(x);
  if (chosen == Way::kKernels) {
    Tensor partial = launch_norm_backward(grad_y, x, rstd, weight, grad_sum, grad_x);
    return {grad_x, partial.sum(0).to(weight.scalar_type())};
  }
  const int64_t num_partials = (count + rows::kRowsPerPartial - 1) / rows::kRowsPerPartial;
  Tensor partial = at::empty({num_partials, width}, x.options().dtype(at::kFloat));
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    run(rows::NormBackward<T>{
            data<T>(grad_y),
            data<T>(x),
            data<float>(rstd),
            data<T>(weight),
            data<T>(grad_sum),
            count,
            width,
            data<T>(grad_x),
            data<float>(partial)},
        num_partials,
        width * rows::kRowsPerPartial);
  });
  return {grad_x, partial.sum(0).to(weight.scalar_type())};
}

std::pair<Tensor, Tensor> rotary(
    const Tensor& given_query,
    const Tensor& given_key,
    const Tensor& cos,
    const Tensor& sin,
    float sign) {
  const Tensor query = given_query.contiguous(), key = given_key.contiguous();
  const Way chosen = way(query);
  if (chosen == Way::kAten) {
    return {turned(query, cos, sin, sign), turned(key, cos, sin, sign)};
  }
  std::pair<Tensor, Tensor> out{at::empty_like(query), at::empty_like(key)};
  if (chosen == Way::kKernels) {
    launch_rotary(query, key, cos, sin, sign, out.first, out.second);
    return out;
  }
  by_type(query, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto turn = [&](const Tensor& x, const Tensor& y) {
      const int64_t heads = x.size(1), width = x.size(2);
      run(rows::Rotary<T>{
              data<T>(x), data<T>(cos), data<T>(sin), sign, heads, width / 2, data<T>(y)},
          x.size(0),
          heads * width);
    };
    turn(query, out.first);
    turn(key, out.second);
  });
  return out;
}

Tensor swiglu(const Tensor& given_gate, const Tensor& given_up) {
  const Tensor gate = given_gate.contiguous(), up = given_up.contiguous();
  const Way chosen = way(gate);
  if (chosen == Way::kAten) {
    return at::silu(gate) * up;
  }
  Tensor y = at::empty_like(gate);
  if (chosen == Way::kKernels) {
    launch_swiglu(gate, up, y);
    return y;
  }
  by_type(gate, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    run(rows::Swiglu<T>{data<T>(gate), data<T>(up), data<T>(y)}, gate.numel(), 1);
  });
  return y;
}

SwigluGradients swiglu_backward(
    const Tensor& gate, const Tensor& up, const Tensor& given, bool again) {
  const Tensor grad_y = given.contiguous();
  const Way chosen = way(gate);
  if (chosen == Way::kAten) {
    const auto kind = wide(gate);
    const Tensor g = gate.to(kind), s = g.sigmoid(), grad = grad_y.to(kind);
    const Tensor silu = (g * s).to(gate.scalar_type());
    const Tensor grad_gate = grad * up.to(kind) * s * (1 + g * (1 - s));
    return {
        grad_gate.to(gate.scalar_type()),
        (grad * silu.to(kind)).to(gate.scalar_type()),
        again ? silu * up : Tensor()};
  }
  SwigluGradients out{at::empty_like(gate), grad_y, again ? at::empty_like(gate) : Tensor()};
  if (chosen == Way::kKernels) {
    launch_swiglu_backward(gate, up, grad_y, out.gate, out.up, out.y);
    return out;
  }
  by_type(gate, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    run(rows::SwigluBackward<T>{
            data<T>(gate),
            data<T>(up),
            data<T>(grad_y),
            data<T>(out.gate),
            data<T>(out.up),
            data<T>(out.y)},
        gate.numel(),
        1);
  });
  return out;
}

void head_visit(
    const Tensor& logits,
    const Tensor& targets,
    int64_t first_token,
    const Tensor& maximum,
    const Tensor& sum,
    const Tensor& chosen) {
  const int64_t width = width_of(logits), count = rows_of(logits);
  switch (way(logits)) {
    case Way::kRows:
      run(rows::HeadVisit{
              data<float>(logits),
              data<int64_t>(targets),
              first_token,
              width,
              data<float>(maximum),
              data<float>(sum),
              data<float>(chosen)},
          count,
          width);
      return;
    case Way::kKernels:
      launch_head_visit(logits, targets, first_token, maximum, sum, chosen);
      return;
    case Way::kAten:
      break;
  }
  const Tensor largest = at::maximum(maximum, logits.amax(1));
  const Tensor added = (logits - largest.unsqueeze(1)).exp_().sum(1);
  sum.mul_((maximum - largest).exp_()).add_(added);
  maximum.copy_(largest);
  const Tensor index = targets - first_token;
  const Tensor inside = index.ge(0).logical_and_(index.lt(width));
  const Tensor found = logits.gather(1, index.clamp(0, width - 1).unsqueeze(1)).squeeze(1);
  chosen.copy_(at::where(inside, found, chosen));
}

Tensor head_gradient(
    const Tensor& logits,
    const Tensor& normalizers,
    const Tensor& coefficients,
    const Tensor& targets,
    int64_t first_token,
    at::ScalarType kind) {
  const int64_t width = width_of(logits), count = rows_of(logits);
  const Way chosen = way(logits);
  if (chosen == Way::kAten) {
    const Tensor index = targets - first_token;
    const Tensor inside = index.ge(0).logical_and_(index.lt(width));
    const Tensor column = index.clamp(0, width - 1).unsqueeze(1);
    const Tensor at_target = at::where(inside, coefficients, at::zeros_like(coefficients));
    logits.sub_(normalizers.unsqueeze(1)).exp_().mul_(coefficients.neg().unsqueeze(1));
    // One index a row, so the order of additions does not matter.
    return logits.scatter_add_(1, column, at_target.unsqueeze(1)).to(kind);
  }
  Tensor gradient = kind == at::kFloat ? logits : at::empty_like(logits, logits.options().dtype(kind));
  if (chosen == Way::kKernels) {
    launch_head_gradient(logits, normalizers, coefficients, targets, first_token, gradient);
    return gradient;
  }
  by_type(gradient, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    run(rows::HeadGradient<T>{
            data<float>(logits),
            data<float>(normalizers),
            data<float>(coefficients),
            data<int64_t>(targets),
            first_token,
            width,
            data<T>(gradient)},
        count,
        width);
  });
  return gradient;
}

} // namespace prospect::fused
