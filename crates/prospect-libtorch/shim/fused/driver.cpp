#include "driver.hpp"

#include "../library.hpp"
#include "../status.hpp"
#include "kernels_source.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <array>
#include <memory>
#include <mutex>
#include <vector>

namespace prospect::fused {
namespace {

// NVRTC from the search path of the process, from beside libtorch, or from the wheels next to it.
// Its second half is opened first, since NVRTC looks for it by name alone.
const Library& nvrtc() {
  static const Library library = [] {
    const std::string torch = torch_folder();
    const std::string wheels = torch + "/../../nvidia/";
    const std::vector<std::string> folders = {
        "", torch + "/", wheels + "cu13/lib/", wheels + "cuda_nvrtc/lib/"};
    struct Version {
      const char* compiler;
      std::vector<const char*> builtins;
    };
    const std::vector<Version> versions = {
        {"libnvrtc.so.13", {"libnvrtc-builtins.so.13.0", "libnvrtc-builtins.so.13.1", "libnvrtc-builtins.so.13.2"}},
        {"libnvrtc.so.12", {"libnvrtc-builtins.so.12.6", "libnvrtc-builtins.so.12.8", "libnvrtc-builtins.so.12.9"}}};
    for (const auto& version : versions) {
      for (const auto& folder : folders) {
        for (const char* name : version.builtins) {
          dlopen((folder + name).c_str(), RTLD_NOW | RTLD_GLOBAL);
        }
        void* handle = dlopen((folder + version.compiler).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle != nullptr) {
          return Library(version.compiler, handle);
        }
      }
    }
    throw Unavailable(
        "libnvrtc is neither in the library path nor beside libtorch; install nvidia-cuda-nvrtc");
  }();
  return library;
}

// What a launch calls, looked up once.
struct Calls {
  int (*push_context)(void*);
  int (*pop_context)(void**);
  int (*launch)(
      void*,
      unsigned,
      unsigned,
      unsigned,
      unsigned,
      unsigned,
      unsigned,
      unsigned,
      void*,
      void**,
      void**);
};

const Library& loaded_driver() {
  const auto* library = driver();
  if (library == nullptr) {
    throw Unavailable("there is no NVIDIA driver");
  }
  return *library;
}

template <class Function>
void find(Function*& place, const char* name) {
  place = loaded_driver().function<Function>(name);
}

const Calls& calls() {
  static const Calls found = [] {
    Calls found{};
    find(found.push_context, "cuCtxPushCurrent_v2");
    find(found.pop_context, "cuCtxPopCurrent_v2");
    find(found.launch, "cuLaunchKernel");
    return found;
  }();
  return found;
}

// A failure is an error like any of libtorch's own: once there are kernels, it is the device that
// has failed.
void expect_success(int status, const char* name) {
  TORCH_CHECK(status == 0, name, " failed with CUDA error ", status);
}

template <class... Args>
void drive(const char* name, Args... args) {
  expect_success(loaded_driver().call(name, args...), name);
}

// Makes the device's primary context, which libtorch uses too, the current one.
class InContext {
 public:
  explicit InContext(void* context) {
    expect_success(calls().push_context(context), "cuCtxPushCurrent");
  }
  ~InContext() {
    void* popped = nullptr;
    calls().pop_context(&popped);
  }
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;
};

// The kernels of one device.
struct Device {
  std::string failure;
  void* context = nullptr;
  std::array<void*, kNumKernels> functions{};

  explicit Device(int device_idx) {
    try {
      int device = 0, major = 0, minor = 0;
      drive("cuInit", 0u);
      drive("cuDeviceGet", &device, device_idx);
      // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
      drive("cuDeviceGetAttribute", &major, 75, device);
      drive("cuDeviceGetAttribute", &minor, 76, device);
      const auto code =
          compile_kernels("sm_" + std::to_string(major) + std::to_string(minor));
      drive("cuDevicePrimaryCtxRetain", &context, device);
      const InContext inside(context);
      void* module = nullptr;
      drive("cuModuleLoadData", &module, static_cast<const void*>(code.data()));
#define PROSPECT_FUNCTION(name) drive("cuModuleGetFunction", &functions[k_##name], module, #name);
      PROSPECT_KERNELS(PROSPECT_FUNCTION)
#undef PROSPECT_FUNCTION
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }
};

// c10 counts devices in a signed byte.
constexpr int kMostDevices = 128;

const Device& device_of(int device_idx) {
  struct Place {
    std::once_flag made;
    std::unique_ptr<const Device> device;
  };
  // Never freed: threads may use them until the process is gone.
  static auto& places = *new std::array<Place, kMostDevices>();
  TORCH_CHECK(
      0 <= device_idx && device_idx < kMostDevices, "no CUDA device has the index ", device_idx);
  auto& place = places[device_idx];
  std::call_once(place.made, [&] { place.device = std::make_unique<const Device>(device_idx); });
  return *place.device;
}

thread_local Emulator emulator = nullptr;

} // namespace

std::string compile_kernels(const std::string& architecture) {
  const auto& compiler = nvrtc();
  void* program = nullptr;
  const char* const* const no_list = nullptr;
  int status = compiler.call(
      "nvrtcCreateProgram", &program, kKernelsSource, "prospect.cu", 0, no_list, no_list);
  TORCH_CHECK(status == 0, "nvrtcCreateProgram failed with error ", status);
  const std::string target = "--gpu-architecture=" + architecture;
  const char* options[] = {target.c_str(), "--std=c++17"};
  status = compiler.call(
      "nvrtcCompileProgram", program, 2, static_cast<const char* const*>(options));
  size_t size = 0;
  std::string result;
  const char* size_name = status == 0 ? "nvrtcGetCUBINSize" : "nvrtcGetProgramLogSize";
  const char* text_name = status == 0 ? "nvrtcGetCUBIN" : "nvrtcGetProgramLog";
  if (compiler.call(size_name, program, &size) == 0) {
    result.resize(size);
    compiler.call(text_name, program, result.data());
  }
  compiler.call("nvrtcDestroyProgram", &program);
  if (status != 0) {
    throw Unavailable("NVRTC cannot compile the kernels for " + architecture + ": " + result);
  }
  return result;
}

bool has_kernels(int device_idx) {
  return device_of(device_idx).failure.empty();
}

std::string kernels_failure(int device_idx) {
  return device_of(device_idx).failure;
}

void emulate(Emulator given) {
  emulator = given;
}

bool is_emulated() {
  return emulator != nullptr;
}

void start(const at::Tensor& like, Kernel kernel, const Grid& grid, void** arguments) {
  if (like.is_cpu()) {
    const char* failure = emulator == nullptr ? "nothing does" : emulator(kernel, &grid, arguments);
    TORCH_CHECK(failure == nullptr, "kernels run in main memory: ", failure);
    return;
  }
  const auto& device = device_of(like.device().index());
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  void* stream = guard.getStreamNativeHandle(guard.getStream(like.device()));
  const InContext inside(device.context);
  expect_success(
      calls().launch(
          device.functions[kernel],
          grid.blocks,
          1,
          1,
          grid.threads,
          1,
          1,
          grid.shared_bytes,
          stream,
          arguments,
          nullptr),
      "cuLaunchKernel");
}

} // namespace prospect::fused
