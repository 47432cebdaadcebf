// CUDA as seen by a process that may have none: libtorch_cuda is loaded when it is asked for, so
// that a process on CPUs pays neither its start time nor its memory.
#include "prospect_shim.h"

#include "library.hpp"
#include "status.hpp"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace {

c10::DeviceAllocator& cuda_allocator(int device_idx) {
  if (!at::hasCUDA()) {
    throw prospect::Unavailable("no CUDA device can be used by this process");
  }
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  auto* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
  TORCH_CHECK(device_idx >= 0, "no CUDA device has the index ", device_idx);
  return *allocator;
}

// CUDA_ERROR_NO_DEVICE of the driver's interface.
constexpr int kNoDevice = 100;

// Calls a function of the driver's about one device, which is its last argument.
template <class... Args>
void ask_driver(const char* what, const char* name, int device_idx, Args... args) {
  const auto* library = prospect::driver();
  if (library == nullptr) {
    throw prospect::Unavailable("there is no NVIDIA driver");
  }
  int device = 0;
  int status = library->call("cuInit", 0u);
  if (status == 0) {
    status = library->call("cuDeviceGet", &device, device_idx);
  }
  if (status == 0) {
    status = library->call(name, args..., device);
  }
  if (status != 0) {
    throw prospect::Unavailable(
        std::string("the NVIDIA driver does not tell the device's ") + what + ": CUDA error " +
        std::to_string(status));
  }
}

} // namespace

int prospect_cuda_driver_devices(int* out, char** message) {
  return prospect::guarded(message, [&] {
    *out = 0;
    const auto* library = prospect::driver();
    if (library == nullptr) {
      return;
    }
    int status = library->call("cuInit", 0u);
    if (status == 0) {
      status = library->call("cuDeviceGetCount", out);
    }
    if (status == 0) {
      return;
    }
    *out = 0;
    // The library alone comes with many images; the node is there only with the kernel's part.
    if (status != kNoDevice && access("/dev/nvidiactl", F_OK) == 0) {
      throw prospect::Unavailable(
          "the NVIDIA driver cannot be started: CUDA error " + std::to_string(status));
    }
  });
}

int prospect_cuda_device_name(int device_idx, char* out, int size, char** message) {
  return prospect::guarded(
      message, [&] { ask_driver("name", "cuDeviceGetName", device_idx, out, size); });
}

int prospect_cuda_device_memory(int device_idx, size_t* out, char** message) {
  // The name without the suffix is the interface from when sizes had 32 bits.
  return prospect::guarded(
      message, [&] { ask_driver("memory", "cuDeviceTotalMem_v2", device_idx, out); });
}

int prospect_cuda_capability(int device_idx, int* out, char** message) {
  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
  return prospect::guarded(
      message, [&] { ask_driver("capability", "cuDeviceGetAttribute", device_idx, out, 75); });
}

int prospect_load_torch_cuda(char** message) {
  return prospect::guarded(message, [&] {
    const std::string folder = prospect::torch_folder();
    if (folder.empty()) {
      throw prospect::Unavailable("libtorch_cpu.so is not among the loaded libraries");
    }
    const std::string path = folder + "/libtorch_cuda.so";
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      throw prospect::Unavailable("libtorch_cuda cannot be loaded: " + prospect::dl_failure());
    }
  });
}

int prospect_cuda_memory(int device_idx, prospect_memory* out, char** message) {
  return prospect::guarded(message, [&] {
    const auto stats = cuda_allocator(device_idx).getDeviceStats(device_idx);
    const auto total = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    out->allocated_bytes = stats.allocated_bytes[total].current;
    out->peak_allocated_bytes = stats.allocated_bytes[total].peak;
    out->reserved_bytes = stats.reserved_bytes[total].current;
  });
}

int prospect_cuda_reset_peak(int device_idx, char** message) {
  return prospect::guarded(
      message, [&] { cuda_allocator(device_idx).resetPeakStats(device_idx); });
}

int prospect_cuda_set_device(int device_idx, char** message) {
  return prospect::guarded(message, [&] {
    // Refuses an index that no device has.
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA)
        .setDevice(at::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_idx)));
  });
}

int prospect_cuda_synchronize(int device_idx, char** message) {
  return prospect::guarded(message, [&] {
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA)
        .synchronizeDevice(static_cast<c10::DeviceIndex>(device_idx));
  });
}

int prospect_load_image(
    const uint8_t* bytes, size_t size, const char* symbol, void** out, char** message) {
  return prospect::guarded(message, [&] {
    const int file = memfd_create(symbol, MFD_CLOEXEC);
    if (file < 0) {
      throw prospect::Unavailable(std::string("no file in memory: ") + std::strerror(errno));
    }
    for (size_t written = 0; written < size;) {
      const ssize_t count = write(file, bytes + written, size - written);
      if (count < 0 && errno != EINTR) {
        const std::string reason = std::strerror(errno);
        close(file);
        throw prospect::Unavailable("the file in memory cannot be written: " + reason);
      }
      written += count < 0 ? 0 : static_cast<size_t>(count);
    }
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    void* image = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    const std::string reason = image == nullptr ? prospect::dl_failure() : "";
    close(file);
    if (image == nullptr) {
      throw prospect::Unavailable("the CUDA half cannot be loaded: " + reason);
    }
    *out = dlsym(image, symbol);
    if (*out == nullptr) {
      throw prospect::Unavailable("the CUDA half is incomplete: " + prospect::dl_failure());
    }
  });
}
