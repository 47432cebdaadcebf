// Vector-Jacobian products and the fused AdamW.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/ops/_fused_adamw.h>
#include <torch/csrc/autograd/autograd.h>
#include <ATen/core/grad_mode.h>

namespace {

std::vector<at::Tensor> tensors(at::Tensor* const* pointers, size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    list.push_back(*pointers[i]);
  }
  return list;
}

} // namespace

int prospect_vjp(
    at::Tensor* const* outputs,
    at::Tensor* const* grad_outputs,
    size_t num_outputs,
    at::Tensor* const* inputs,
    size_t num_inputs,
    int keep_graph,
    at::Tensor** gradients,
    char** message) {
  return prospect::guarded(message, [&] {
    const auto found = torch::autograd::grad(
        tensors(outputs, num_outputs),
        tensors(inputs, num_inputs),
        tensors(grad_outputs, num_outputs),
        /*retain_graph=*/keep_graph != 0,
        /*create_graph=*/false,
        /*allow_unused=*/true);
    for (size_t i = 0; i < num_inputs; ++i) {
      gradients[i] = found[i].defined() ? new at::Tensor(found[i]) : nullptr;
    }
  });
}

int prospect_fused_adamw(
    at::Tensor* const* params,
    at::Tensor* const* grads,
    at::Tensor* const* exp_avgs,
    at::Tensor* const* exp_avg_sqs,
    at::Tensor* const* steps,
    size_t count,
    const prospect_adamw* options,
    char** message) {
  return prospect::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    at::_fused_adamw_(
        tensors(params, count),
        tensors(grads, count),
        tensors(exp_avgs, count),
        tensors(exp_avg_sqs, count),
        /*max_exp_avg_sqs=*/at::TensorList(),
        tensors(steps, count),
        options->lr,
        options->beta1,
        options->beta2,
        options->weight_decay,
        options->eps,
        /*amsgrad=*/false,
        /*maximize=*/false,
        /*grad_scale=*/std::nullopt,
        /*found_inf=*/std::nullopt);
  });
}
