// Collectives, works and the life of a process group, the same for every c10d backend.
#include "prospect_shim.h"

#include "handles.hpp"
#include "status.hpp"

#include <ATen/core/grad_mode.h>

#include <cstdlib>

namespace {

struct Setting {
  const char* name;
  const char* value;
};

// What libtorch reads from the environment and a worker wants otherwise than by default. Here, since
// an object with nothing but a constructor would not be linked from the archive.
constexpr Setting kSettings[] = {
    // c10d keeps a record of all collectives that nobody here reads, in a map that groups of
    // several threads write to without a lock (FlightRecorderDetail.hpp, all_pg_status_). It reads
    // the size once, when the first group is made.
    {"TORCH_FR_BUFFER_SIZE", "0"},
    // After a collective has failed, NCCL's watchdog has every process write that record, waits a
    // minute for it and only then gives the communicators up, and the monitor of the process's
    // first group sleeps 8 minutes and ends the process. A worker has to be free for its next
    // generation at once.
    {"TORCH_NCCL_DUMP_ON_TIMEOUT", "0"},
    {"TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "0"},
    {"TORCH_NCCL_ENABLE_MONITORING", "0"},
    // On a CPU products of bf16 matrices are oneDNN's, which keeps up to 1,024 of them with their
    // memory, and ideep around it as many again: one for every shape. Passes have ever different
    // numbers of tokens, and a layer has a dozen products, so that those of one pass are enough.
    {"LRU_CACHE_CAPACITY", "32"},
    {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32"},
};

// Before there is any other thread; whoever has set a variable gets what it says.
__attribute__((constructor)) void set_environment() {
  for (const auto& setting : kSettings) {
    setenv(setting.name, setting.value, /*overwrite=*/0);
  }
}

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
