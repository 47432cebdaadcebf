// The CUDA half: the NCCL backend, a shared object of its own that is loaded with libtorch_cuda.
#include "../prospect_shim.h"

#include "../handles.hpp"
#include "../status.hpp"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>

namespace {

// Reaches the protected error handling of a process group without adding to it.
struct ErrorHandling : public c10d::ProcessGroupNCCL {
  static auto member() {
    return &ErrorHandling::asyncErrorHandling_;
  }
};

} // namespace

__attribute__((visibility("default"))) int prospect_nccl_new(
    const prospect_store* store,
    const char* prefix,
    int device_idx,
    int rank,
    int size,
    int64_t timeout_ms,
    prospect_group** out,
    char** message) {
  return prospect::guarded(message, [&] {
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
      // Its watchdog has nobody else to tell the details of a failure.
      FLAGS_caffe2_log_level = c10::GLOG_ERROR;
    }
    const std::chrono::milliseconds timeout(timeout_ms);
    auto own = store->store->clone();
    own->setTimeout(timeout);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(own));
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl;
    try {
      nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(
          std::move(prefixed), rank, size, std::move(options));
    } catch (const c10::ValueError& error) {
      throw prospect::Unavailable(error.what_without_backtrace());
    }
    // Lets c10d refuse tensors of other devices, and no barrier guesses its device.
    nccl->setBoundDeviceId(
        at::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_idx)));
    // By default the watchdog ends the process on an error. A worker has to survive one, so that
    // it can join the next generation: communicators are cleaned up and the error is reported.
    if (std::getenv("TORCH_NCCL_ASYNC_ERROR_HANDLING") == nullptr) {
      (*nccl).*ErrorHandling::member() = c10d::CleanUpOnly;
    }
    *out = new prospect_group{store->store, std::move(nccl), nullptr, device_idx};
  });
}
