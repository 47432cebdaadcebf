#include "launch.hpp"

#include "../status.hpp"
#include "kernels_source.hpp"

#include <ATen/Functions.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace prospect::fused {
namespace {

using at::Tensor;

// --- Libraries that may be missing, opened at run time ---

std::string failure_text() {
  const char* text = dlerror();
  return text == nullptr ? "unknown reason" : text;
}

// A function of an open library, by name.
class Library {
 public:
  explicit Library(void* handle) : handle_(handle) {}
  template <class... Args>
  int call(const char* name, Args... args) const {
    auto* function = reinterpret_cast<int (*)(Args...)>(dlsym(handle_, name));
    if (function == nullptr) {
      throw Unavailable("a library of CUDA is incomplete: " + failure_text());
    }
    return function(args...);
  }

 private:
  void* handle_;
};

int find_torch_folder(dl_phdr_info* info, size_t, void* found) {
  const std::string path = info->dlpi_name;
  const auto at = path.rfind("/libtorch_cpu.so");
  if (at == std::string::npos) {
    return 0;
  }
  *static_cast<std::string*>(found) = path.substr(0, at);
  return 1;
}

// NVRTC from the search path of the process, from beside libtorch, or from the wheels next to it.
// Its second half is opened first, since NVRTC looks for it by name alone.
const Library& nvrtc() {
  static const Library library = [] {
    std::string torch;
    dl_iterate_phdr(find_torch_folder, &torch);
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
          return Library(handle);
        }
      }
    }
    throw Unavailable(
        "libnvrtc is neither in the library path nor beside libtorch; install nvidia-cuda-nvrtc");
  }();
  return library;
}

const Library& driver() {
  static const Library library = [] {
    void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      throw Unavailable("there is no NVIDIA driver: " + failure_text());
    }
    return Library(handle);
  }();
  return library;
}

// A failure is an error like any of libtorch's own: once there are kernels, it is the device that
// has failed.
template <class... Args>
void drive(const char* name, Args... args) {
  const int status = driver().call(name, args...);
  TORCH_CHECK(status == 0, name, " failed with CUDA error ", status);
}

// --- The kernels of one device ---

// Makes the device's primary context, which libtorch uses too, the current one.
class InContext {
 public:
  explicit InContext(void* context) {
    drive("cuCtxPushCurrent_v2", context);
  }
  ~InContext() {
    void* popped = nullptr;
    driver().call("cuCtxPopCurrent_v2", &popped);
  }
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;
};

struct Device {
  std::string failure;
  void* context = nullptr;
  void* module = nullptr;
  std::mutex lock;
  std::map<std::string, void*> functions;

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
      drive("cuModuleLoadData", &module, static_cast<const void*>(code.data()));
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }

  void* function(const std::string& name) {
    const std::lock_guard<std::mutex> guard(lock);
    void*& found = functions[name];
    if (found == nullptr) {
      drive("cuModuleGetFunction", &found, module, name.c_str());
    }
    return found;
  }
};

Device& device_of(int device_idx) {
  static std::mutex lock;
  static std::map<int, std::unique_ptr<Device>> devices;
  const std::lock_guard<std::mutex> guard(lock);
  auto& device = devices[device_idx];
  if (device == nullptr) {
    device = std::make_unique<Device>(device_idx);
  }
  return *device;
}

struct Shape {
  int64_t blocks;
  int64_t threads;
  int64_t shared_bytes = 0;
};

// Puts a kernel on the current stream of the device of `like`. Arguments are passed by address,
// so each has the type that the kernel declares.
template <class... Args>
void launch(const Tensor& like, const std::string& name, const Shape& shape, Args... args) {
  if (shape.blocks == 0) {
    return;
  }
  auto& device = device_of(like.device().index());
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  void* stream = guard.getStreamNativeHandle(guard.getStream(like.device()));
  void* addresses[] = {static_cast<void*>(&args)...};
  const InContext inside(device.context);
  drive(
      "cuLaunchKernel",
      device.function(name),
      static_cast<unsigned>(shape.blocks),
      1u,
      1u,
      static_cast<unsigned>(shape.threads),
      1u,
      1u,
      static_cast<unsigned>(shape.shared_bytes),
      stream,
      static_cast<void**>(addresses),
      static_cast<void**>(nullptr));
}

// --- How the work is cut ---

void* pointer(const Tensor& x) {
  return x.defined() ? x.data_ptr() : nullptr;
}

std::string type_of(const Tensor& x) {
  return x.scalar_type() == at::kFloat ? "f32" : "bf16";
}

// The kernels' form for rows of `width` elements in these places, and the elements it moves at a
// time.
struct Form {
  std::string suffix;
  int64_t pack = 1;

  Form(int64_t width, std::initializer_list<Tensor> places) {
    const Tensor& first = *places.begin();
    const int64_t wide = 16 / first.element_size();
    const bool aligned = std::all_of(places.begin(), places.end(), [](const Tensor& x) {
      return reinterpret_cast<uintptr_t>(pointer(x)) % 16 == 0;
    });
    const bool packed = aligned && width % wide == 0;
    pack = packed ? wide : 1;
    suffix = "_" + type_of(first) + (packed ? "_wide" : "_one");
  }
};

constexpr int64_t kThreads = 256;

// A block's threads for a row of so many packs: whole warps, none without work.
int64_t threads_for(int64_t packs) {
  return std::min<int64_t>(std::max<int64_t>((packs + 31) / 32 * 32, 32), kThreads);
}

int64_t rows_of(const Tensor& x) {
  return x.numel() / std::max<int64_t>(1, x.size(-1));
}

Shape by_elements(int64_t count) {
  return {(count + kThreads - 1) / kThreads, kThreads};
}

long long number(int64_t x) {
  return x;
}

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

bool norm_backward_fits(int64_t width) {
  // 48 KiB without asking for more, less the 128 bytes of the block's sum.
  return width * 4 <= (48 << 10) - 128;
}

void launch_norm(
    const Tensor& input,
    const Tensor& delta,
    const Tensor& weight,
    float eps,
    const Tensor& sum,
    const Tensor& y,
    const Tensor& rstd) {
  const int64_t width = input.size(-1);
  const Form form(width, {input, delta, weight, sum, y});
  launch(
      input,
      "norm" + form.suffix,
      {rows_of(input), threads_for(width / form.pack)},
      pointer(input),
      pointer(delta),
      pointer(weight),
      eps,
      number(width),
      pointer(sum),
      pointer(y),
      pointer(rstd));
}

void launch_norm_again(
    const Tensor& x, const Tensor& rstd, const Tensor& weight, const Tensor& y) {
  const int64_t width = x.size(-1);
  const Form form(width, {x, weight, y});
  launch(
      x,
      "norm_again" + form.suffix,
      {rows_of(x), threads_for(width / form.pack)},
      pointer(x),
      pointer(rstd),
      pointer(weight),
      number(width),
      pointer(y));
}

Tensor launch_norm_backward(
    const Tensor& grad_y,
    const Tensor& x,
    const Tensor& rstd,
    const Tensor& weight,
    const Tensor& grad_sum,
    const Tensor& grad_x) {
  const int64_t width = x.size(-1), rows = rows_of(x);
  const Form form(width, {x, grad_y, weight, grad_sum, grad_x});
  // A function of the shape alone, so that the order of additions is too. Narrow rows are many.
  const int64_t blocks = std::min<int64_t>(rows, width <= 512 ? 4096 : 512);
  const Tensor partial = at::empty({blocks, width}, x.options().dtype(at::kFloat));
  launch(
      x,
      "norm_backward" + form.suffix,
      {blocks, threads_for(width / form.pack), width * 4},
      pointer(grad_y),
      pointer(x),
      pointer(rstd),
      pointer(weight),
      pointer(grad_sum),
      number(rows),
      number(width),
      pointer(grad_x),
      pointer(partial));
  return partial;
}

void launch_rotary(
    const Tensor& query,
    const Tensor& key,
    const Tensor& cos,
    const Tensor& sin,
    float sign,
    const Tensor& query_out,
    const Tensor& key_out) {
  const int64_t half = query.size(2) / 2;
  const Form form(half, {query, key, cos, sin, query_out, key_out});
  launch(
      query,
      "rotary" + form.suffix,
      by_elements((query.numel() + key.numel()) / 2 / form.pack),
      pointer(query),
      pointer(key),
      pointer(cos),
      pointer(sin),
      sign,
      number(query.size(0)),
      number(query.size(1)),
      number(key.size(1)),
      number(half),
      pointer(query_out),
      pointer(key_out));
}

void launch_swiglu(const Tensor& gate, const Tensor& up, const Tensor& y) {
  const Form form(gate.numel(), {gate, up, y});
  const int64_t packs = gate.numel() / form.pack;
  launch(
      gate,
      "swiglu" + form.suffix,
      by_elements(packs),
      pointer(gate),
      pointer(up),
      number(packs),
      pointer(y));
}

void launch_swiglu_backward(
    const Tensor& gate,
    const Tensor& up,
    const Tensor& grad_y,
    const Tensor& grad_gate,
    const Tensor& grad_up,
    const Tensor& y) {
  const Form form(gate.numel(), {gate, up, grad_y, grad_gate, grad_up, y});
  const int64_t packs = gate.numel() / form.pack;
  launch(
      gate,
      "swiglu_backward" + form.suffix,
      by_elements(packs),
      pointer(gate),
      pointer(up),
      pointer(grad_y),
      number(packs),
      pointer(grad_gate),
      pointer(grad_up),
      pointer(y));
}

void launch_head_visit(
    const Tensor& logits,
    const Tensor& targets,
    int64_t first_token,
    const Tensor& maximum,
    const Tensor& sum,
    const Tensor& chosen) {
  launch(
      logits,
      "head_visit",
      {logits.size(0), kThreads},
      pointer(logits),
      pointer(targets),
      number(first_token),
      number(logits.size(1)),
      pointer(maximum),
      pointer(sum),
      pointer(chosen));
}

void launch_head_gradient(
    const Tensor& logits,
    const Tensor& normalizers,
    const Tensor& coefficients,
    const Tensor& targets,
    int64_t first_token,
    const Tensor& gradient) {
  launch(
      logits,
      "head_gradient_" + type_of(gradient),
      {logits.size(0), kThreads},
      pointer(logits),
      pointer(normalizers),
      pointer(coefficients),
      pointer(targets),
      number(first_token),
      number(logits.size(1)),
      pointer(gradient));
}

} // namespace prospect::fused
