// Shared libraries that may be missing, opened at run time.
#pragma once

#include "status.hpp"

#include <dlfcn.h>

#include <string>
#include <utility>

namespace prospect {

// The reason of the last failure of dlopen or dlsym.
std::string dl_failure();

// The folder that libtorch_cpu was loaded from; empty where it is linked in.
std::string torch_folder();

// An open library, for as long as the process lives.
class Library {
 public:
  Library(std::string name, void* handle) : name_(std::move(name)), handle_(handle) {}

  template <class Function>
  Function* function(const char* name) const {
    auto* found = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (found == nullptr) {
      throw Unavailable(name_ + " is incomplete: " + dl_failure());
    }
    return found;
  }

  // Calls a function that returns a status.
  template <class... Args>
  int call(const char* name, Args... args) const {
    return function<int(Args...)>(name)(args...);
  }

 private:
  std::string name_;
  void* handle_;
};

// The NVIDIA driver; null where there is none.
const Library* driver();

} // namespace prospect
