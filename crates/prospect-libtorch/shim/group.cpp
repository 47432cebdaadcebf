// Collectives, works and the life of a process group, the same for every c10d backend.
#include "prospect_shim.h"

#include "handles.hpp"
#include "status.hpp"

#include <ATen/core/grad_mode.h>

namespace {

// Gloo compares shapes where only the number of elements matters.
at::Tensor flat(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  return tensor.view({-1});
}

int start(
    prospect_group* group,
    at::Tensor* output,
    at::Tensor* input,
    prospect_work** out,
    char** message,
    c10::intrusive_ptr<c10d::Work> (*collective)(c10d::Backend&, std::vector<at::Tensor>&)) {
  return prospect::guarded(message, [&] {
    std::vector<at::Tensor> tensors{flat(*output), flat(*input)};
    auto work = collective(*group->backend, tensors);
    *out = new prospect_work{std::move(work), std::move(tensors)};
  });
}

} // namespace

int prospect_all_reduce_sum(
    prospect_group* group, at::Tensor* tensor, prospect_work** out, char** message) {
  return prospect::guarded(message, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    auto work = group->backend->allreduce(tensors);
    *out = new prospect_work{std::move(work), std::move(tensors)};
  });
}

int prospect_reduce_scatter_sum(
    prospect_group* group,
    at::Tensor* output,
    at::Tensor* input,
    prospect_work** out,
    char** message) {
  return start(group, output, input, out, message, [](auto& backend, auto& tensors) {
    return backend._reduce_scatter_base(tensors[0], tensors[1]);
  });
}

int prospect_all_gather(
    prospect_group* group,
    at::Tensor* output,
    at::Tensor* input,
    prospect_work** out,
    char** message) {
  return start(group, output, input, out, message, [](auto& backend, auto& tensors) {
    return backend._allgather_base(tensors[0], tensors[1]);
  });
}

int prospect_broadcast(
    prospect_group* group, at::Tensor* tensor, int root, prospect_work** out, char** message) {
  return prospect::guarded(message, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    auto work = group->backend->broadcast(tensors, options);
    *out = new prospect_work{std::move(work), std::move(tensors)};
  });
}

int prospect_barrier(prospect_group* group, prospect_work** out, char** message) {
  return prospect::guarded(message, [&] {
    c10d::BarrierOptions options;
    if (group->device_idx >= 0) {
      // NCCL's barrier is a collective on a device; without this it guesses from the rank.
      options.device =
          at::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(group->device_idx));
    }
    *out = new prospect_work{group->backend->barrier(options), {}};
  });
}

int prospect_work_wait(prospect_work* work, char** message) {
  return prospect::guarded(message, [&] {
    if (!work->work->wait()) {
      throw prospect::Aborted("the work was given up");
    }
  });
}

void prospect_work_free(prospect_work* work) {
  delete work;
}

int prospect_group_abort(prospect_group* group, char** message) {
  return prospect::guarded(message, [&] {
    if (group->abort != nullptr) {
      group->abort(*group->backend);
    } else {
      group->backend->abort();
    }
  });
}

int prospect_group_health(prospect_group* group, char** message) {
  if (group->abort != nullptr) {
    // Gloo tells every failure to whoever waits for the work.
    return PROSPECT_OK;
  }
  int status = PROSPECT_OK;
  const int asked = prospect::guarded(message, [&] {
    switch (group->backend->getError()) {
      case c10d::ErrorType::SUCCESS:
        break;
      case c10d::ErrorType::TIMEOUT:
        status = prospect::report(PROSPECT_TIMEOUT, "a collective ran out of time", message);
        break;
      default:
        status = prospect::report(PROSPECT_CONNECTION, "a collective failed", message);
        break;
    }
  });
  return asked == PROSPECT_OK ? status : asked;
}

int prospect_group_shutdown(prospect_group* group, char** message) {
  return prospect::guarded(message, [&] { group->backend->shutdown(); });
}

void prospect_group_free(prospect_group* group) {
  delete group;
}
