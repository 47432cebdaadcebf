// The parts of a block as autograd functions: each saves what its backward needs and no more.
#include "../prospect_shim.h"

#include "../status.hpp"
#include "driver.hpp"
#include "ops.hpp"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Maybe = std::optional<Tensor>;
namespace fused = prospect::fused;

struct Norm : public Function<Norm> {
  static Tensor forward(
      AutogradContext* ctx, const Tensor& input, const Tensor& weight, double eps) {
    const Tensor x = input.contiguous();
    auto normed = fused::norm(x, std::nullopt, weight, eps);
    ctx->save_for_backward({x, normed.rstd, weight});
    return normed.y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    auto [grad_x, grad_weight] =
        fused::norm_backward(gradients[0], saved[0], saved[1], saved[2], Tensor());
    return {grad_x, grad_weight, Tensor()};
  }
};

// Up to three projections of the norm of `input`, or of `input + delta`, which then is the first
// output. With `again` the normed rows are computed again in the backward instead of kept.
struct NormLinear : public Function<NormLinear> {
  static variable_list forward(
      AutogradContext* ctx,
      const Tensor& input,
      const Maybe& delta,
      const Tensor& norm_weight,
      const Tensor& first,
      const Maybe& first_bias,
      const Maybe& second,
      const Maybe& second_bias,
      const Maybe& third,
      const Maybe& third_bias,
      double eps,
      bool again) {
    auto normed = fused::norm(input, delta, norm_weight, eps);
    variable_list outputs;
    if (delta) {
      outputs.push_back(normed.sum);
    }
    outputs.push_back(at::linear(normed.y, first, first_bias));
    if (second) {
      outputs.push_back(at::linear(normed.y, *second, second_bias));
    }
    if (third) {
      outputs.push_back(at::linear(normed.y, *third, third_bias));
    }
    ctx->save_for_backward(
        {delta ? normed.sum : input.contiguous(),
         normed.rstd,
         norm_weight,
         again ? Tensor() : normed.y,
         first,
         second.value_or(Tensor()),
         third.value_or(Tensor())});
    ctx->saved_data["delta"] = delta.has_value();
    ctx->saved_data["biases"] = std::vector<bool>{
        first_bias.has_value(), second_bias.has_value(), third_bias.has_value()};
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &rstd = saved[1], &norm_weight = saved[2];
    const bool has_delta = ctx->saved_data["delta"].toBool();
    const auto biases = ctx->saved_data["biases"].toBoolList();
    const size_t skipped = has_delta ? 1 : 0;
    Tensor normed = saved[3].defined() ? saved[3] : fused::norm_again(x, rstd, norm_weight);
    Tensor grad_normed;
    variable_list of_weights(6);
    for (size_t i = 0; i + skipped < gradients.size(); ++i) {
      const Tensor& gradient = gradients[i + skipped];
      const Tensor& weight = saved[4 + i];
      of_weights[2 * i] = gradient.t().mm(normed);
      if (biases[i]) {
        of_weights[2 * i + 1] = gradient.sum(0);
      }
      if (grad_normed.defined()) {
        grad_normed.addmm_(gradient, weight);
      } else {
        grad_normed = gradient.mm(weight);
      }
    }
    normed.reset();
    auto [grad_x, grad_norm] = fused::norm_backward(
        grad_normed, x, rstd, norm_weight, has_delta ? gradients[0] : Tensor());
    return {
        grad_x,
        has_delta ? grad_x : Tensor(),
        grad_norm,
        of_weights[0],
        of_weights[1],
        of_weights[2],
        of_weights[3],
        of_weights[4],
        of_weights[5],
        Tensor(),
        Tensor()};
  }
};

struct Rotary : public Function<Rotary> {
  static variable_list forward(
      AutogradContext* ctx,
      const Tensor& query,
      const Tensor& key,
      const Tensor& cos,
      const Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    auto [turned_query, turned_key] = fused::rotary(query, key, cos, sin, 1.0f);
    return {turned_query, turned_key};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    auto [query, key] = fused::rotary(gradients[0], gradients[1], saved[0], saved[1], -1.0f);
    return {query, key, Tensor(), Tensor()};
  }
};

// residual + linear(silu(gate) * up). With `again` the product is computed again in the backward
// instead of kept.
struct SwigluLinear : public Function<SwigluLinear> {
  static Tensor forward(
      AutogradContext* ctx,
      const Tensor& given_gate,
      const Tensor& given_up,
      const Tensor& weight,
      const Maybe& bias,
      const Tensor& residual,
      bool again) {
    const Tensor gate = given_gate.contiguous(), up = given_up.contiguous();
    const Tensor product = fused::swiglu(gate, up);
    ctx->save_for_backward({gate, up, weight, again ? Tensor() : product});
    ctx->saved_data["bias"] = bias.has_value();
    return at::linear(product, weight, bias).add_(residual);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1], &weight = saved[2], &product = saved[3];
    const Tensor& gradient = gradients[0];
    auto found =
        fused::swiglu_backward(gate, up, gradient.mm(weight), /*again=*/!product.defined());
    const bool has_bias = ctx->saved_data["bias"].toBool();
    return {
        found.gate,
        found.up,
        gradient.t().mm(product.defined() ? product : found.y),
        has_bias ? gradient.sum(0) : Tensor(),
        gradient,
        Tensor()};
  }
};

Maybe maybe(const Tensor* tensor) {
  return tensor == nullptr ? Maybe() : Maybe(*tensor);
}

} // namespace

int prospect_fused_norm(
    const Tensor* input, const Tensor* weight, double eps, Tensor** out, char** message) {
  return prospect::guarded(
      message, [&] { *out = new Tensor(Norm::apply(*input, *weight, eps)); });
}

int prospect_fused_norm_linear(
    const Tensor* input,
    const Tensor* delta,
    const Tensor* norm_weight,
    double eps,
    const Tensor* const* weights,
    const Tensor* const* biases,
    size_t count,
    int again,
    Tensor** out,
    char** message) {
  return prospect::guarded(message, [&] {
    const auto at = [&](const Tensor* const* list, size_t i) {
      return i < count ? maybe(list[i]) : Maybe();
    };
    const auto outputs = NormLinear::apply(
        *input,
        maybe(delta),
        *norm_weight,
        *weights[0],
        at(biases, 0),
        at(weights, 1),
        at(biases, 1),
        at(weights, 2),
        at(biases, 2),
        eps,
        again != 0);
    for (size_t i = 0; i < outputs.size(); ++i) {
      out[i] = new Tensor(outputs[i]);
    }
  });
}

int prospect_fused_rotary(
    const Tensor* query,
    const Tensor* key,
    const Tensor* cos,
    const Tensor* sin,
    Tensor** out,
    char** message) {
  return prospect::guarded(message, [&] {
    const auto outputs = Rotary::apply(*query, *key, *cos, *sin);
    out[0] = new Tensor(outputs[0]);
    out[1] = new Tensor(outputs[1]);
  });
}

int prospect_fused_swiglu_linear(
    const Tensor* gate,
    const Tensor* up,
    const Tensor* weight,
    const Tensor* bias,
    const Tensor* residual,
    int again,
    Tensor** out,
    char** message) {
  return prospect::guarded(message, [&] {
    *out = new Tensor(
        SwigluLinear::apply(*gate, *up, *weight, maybe(bias), *residual, again != 0));
  });
}

int prospect_fused_head_visit(
    const Tensor* logits,
    const Tensor* targets,
    int64_t first_token,
    Tensor* maximum,
    Tensor* sum,
    Tensor* chosen,
    char** message) {
  return prospect::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    fused::head_visit(*logits, *targets, first_token, *maximum, *sum, *chosen);
  });
}

int prospect_fused_head_gradient(
    Tensor* logits,
    const Tensor* normalizers,
    const Tensor* coefficients,
    const Tensor* targets,
    int64_t first_token,
    const Tensor* like,
    Tensor** out,
    char** message) {
  return prospect::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    *out = new Tensor(fused::head_gradient(
        *logits, *normalizers, *coefficients, *targets, first_token, like->scalar_type()));
  });
}

int prospect_fused_compile(const char* architecture, size_t* num_bytes, char** message) {
  return prospect::guarded(
      message, [&] { *num_bytes = fused::compile_kernels(architecture).size(); });
}

void prospect_fused_emulate(fused::Emulator emulator) {
  fused::emulate(emulator);
}

int prospect_fused_ready(int device_idx, char** message) {
  return prospect::guarded(message, [&] {
    const auto failure = fused::kernels_failure(device_idx);
    if (!failure.empty()) {
      throw prospect::Unavailable(failure);
    }
  });
}
