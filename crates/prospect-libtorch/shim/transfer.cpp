// Copies between host and device that the host does not wait for, and the memory for them.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace {

// cudaHostRegisterPortable: pinned for all devices.
constexpr unsigned kPortable = 1;

// cudaErrorNotSupported, told where the CUDA runtime has no such function.
constexpr int kNotSupported = 801;

at::Device cuda_device(int device_idx) {
  const auto index = static_cast<c10::DeviceIndex>(device_idx);
  TORCH_CHECK(index == device_idx && index >= 0, "there is no CUDA device ", device_idx);
  return at::Device(at::kCUDA, index);
}

// A function of the CUDA runtime that came with libtorch_cuda; null where there is none.
template <class Function>
Function* runtime_function(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// Pages of zeros.
class Pages {
 public:
  Pages(size_t size, at::Device device) : size_(size), device_(device) {
    place_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(
        place_ != MAP_FAILED, "no ", size, " bytes of main memory: ", std::strerror(errno));
    auto* pin = runtime_function<int(void*, size_t, unsigned)>("cudaHostRegister");
    // The runtime works on the current device.
    const c10::DeviceGuard guard(device_);
    failure_ = pin == nullptr ? kNotSupported : pin(place_, size_, kPortable);
    if (failure_ != 0) {
      // It would be reported by whatever asks next.
      if (auto* forget = runtime_function<int()>("cudaGetLastError")) {
        forget();
      }
    }
  }
  ~Pages() {
    if (failure_ == 0) {
      try {
        // A copy may be under way, if something has failed.
        c10::impl::VirtualGuardImpl(device_.type()).synchronizeDevice(device_.index());
      } catch (const std::exception&) {
        // A device that has failed copies nothing.
      }
      if (auto* unpin = runtime_function<int(void*)>("cudaHostUnregister")) {
        unpin(place_);
      }
    }
    munmap(place_, size_);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  void* place() const {
    return place_;
  }
  int failure() const {
    return failure_;
  }

 private:
  void* place_ = nullptr;
  size_t size_;
  at::Device device_;
  int failure_ = 0;
};

} // namespace

int prospect_upload(
    const at::Tensor* host, int device_idx, at::Tensor** out, char** message) {
  return prospect::guarded(message, [&] {
    const auto device = cuda_device(device_idx);
    *out = new at::Tensor(host->pin_memory().to(device, /*non_blocking=*/true));
  });
}

int prospect_copy_async(at::Tensor* destination, const at::Tensor* source, char** message) {
  return prospect::guarded(
      message, [&] { destination->copy_(*source, /*non_blocking=*/true); });
}

int prospect_pinned_zeros(
    int64_t numel, int device_idx, at::Tensor** out, int* failure, char** message) {
  return prospect::guarded(message, [&] {
    const auto device = cuda_device(device_idx);
    const auto pages = std::make_shared<Pages>(static_cast<size_t>(numel) * 4, device);
    *failure = pages->failure();
    *out = new at::Tensor(at::from_blob(
        pages->place(), {numel}, [pages](void*) {}, at::TensorOptions().dtype(at::kFloat)));
  });
}

int prospect_host_buffer(int64_t numel, at::Tensor** out, char** message) {
  return prospect::guarded(message, [&] {
    const auto options = at::TensorOptions().dtype(at::kFloat).pinned_memory(true);
    *out = new at::Tensor(at::empty({numel}, options));
  });
}
