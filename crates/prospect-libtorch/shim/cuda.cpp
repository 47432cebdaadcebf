// CUDA as seen by a process that may have none: libtorch_cuda is loaded when it is asked for, so
// that a process on CPUs pays neither its start time nor its memory.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace {

int find_torch_cpu(dl_phdr_info* info, size_t, void* found) {
  const std::string path = info->dlpi_name;
  const auto slash = path.rfind('/');
  if (slash == std::string::npos || path.compare(slash + 1, 16, "libtorch_cpu.so") != 0) {
    return 0;
  }
  *static_cast<std::string*>(found) = path.substr(0, slash);
  return 1;
}

std::string dl_failure() {
  const char* text = dlerror();
  return text == nullptr ? "unknown reason" : text;
}

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

void* open_driver() {
  return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
}

template <class Function>
Function* driver_function(void* driver, const char* name) {
  auto* function = reinterpret_cast<Function*>(dlsym(driver, name));
  if (function == nullptr) {
    throw prospect::Unavailable("the NVIDIA driver's libcuda.so.1 is incomplete: " + dl_failure());
  }
  return function;
}

} // namespace

int prospect_cuda_driver_devices(int* out, char** message) {
  return prospect::guarded(message, [&] {
    *out = 0;
    void* driver = open_driver();
    if (driver == nullptr) {
      return;
    }
    int status = driver_function<int(unsigned)>(driver, "cuInit")(0);
    if (status == 0) {
      status = driver_function<int(int*)>(driver, "cuDeviceGetCount")(out);
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
  return prospect::guarded(message, [&] {
    void* driver = open_driver();
    if (driver == nullptr) {
      throw prospect::Unavailable("there is no NVIDIA driver");
    }
    int device = 0;
    int status = driver_function<int(unsigned)>(driver, "cuInit")(0);
    if (status == 0) {
      status = driver_function<int(int*, int)>(driver, "cuDeviceGet")(&device, device_idx);
    }
    if (status == 0) {
      status = driver_function<int(char*, int, int)>(driver, "cuDeviceGetName")(out, size, device);
    }
    if (status != 0) {
      throw prospect::Unavailable(
          "the NVIDIA driver does not name the device: CUDA error " + std::to_string(status));
    }
  });
}

int prospect_cuda_device_memory(int device_idx, size_t* out, char** message) {
  return prospect::guarded(message, [&] {
    void* driver = open_driver();
    if (driver == nullptr) {
      throw prospect::Unavailable("there is no NVIDIA driver");
    }
    int device = 0;
    int status = driver_function<int(unsigned)>(driver, "cuInit")(0);
    if (status == 0) {
      status = driver_function<int(int*, int)>(driver, "cuDeviceGet")(&device, device_idx);
    }
    if (status == 0) {
      // The name without the suffix is the interface from when sizes had 32 bits.
      status = driver_function<int(size_t*, int)>(driver, "cuDeviceTotalMem_v2")(out, device);
    }
    if (status != 0) {
      throw prospect::Unavailable(
          "the NVIDIA driver does not tell the device's memory: CUDA error " +
          std::to_string(status));
    }
  });
}

int prospect_load_torch_cuda(char** message) {
  return prospect::guarded(message, [&] {
    std::string folder;
    if (dl_iterate_phdr(find_torch_cpu, &folder) == 0) {
      throw prospect::Unavailable("libtorch_cpu.so is not among the loaded libraries");
    }
    const std::string path = folder + "/libtorch_cuda.so";
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      throw prospect::Unavailable("libtorch_cuda cannot be loaded: " + dl_failure());
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
    const std::string reason = image == nullptr ? dl_failure() : "";
    close(file);
    if (image == nullptr) {
      throw prospect::Unavailable("the CUDA half cannot be loaded: " + reason);
    }
    *out = dlsym(image, symbol);
    if (*out == nullptr) {
      throw prospect::Unavailable("the CUDA half is incomplete: " + dl_failure());
    }
  });
}
