#include "library.hpp"

#include <link.h>

namespace prospect {
namespace {

int find_torch(dl_phdr_info* info, size_t, void* found) {
  const std::string path = info->dlpi_name;
  const auto slash = path.rfind('/');
  if (slash == std::string::npos || path.compare(slash + 1, 16, "libtorch_cpu.so") != 0) {
    return 0;
  }
  *static_cast<std::string*>(found) = path.substr(0, slash);
  return 1;
}

} // namespace

std::string dl_failure() {
  const char* text = dlerror();
  return text == nullptr ? "unknown reason" : text;
}

std::string torch_folder() {
  std::string folder;
  dl_iterate_phdr(find_torch, &folder);
  return folder;
}

const Library* driver() {
  // Never freed: threads may use it until the process is gone.
  static const Library* const library = [] {
    void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return handle == nullptr ? nullptr
                             : new Library("the NVIDIA driver's libcuda.so.1", handle);
  }();
  return library;
}

} // namespace prospect
