// The kernels' way to a device: NVRTC compiles them, the driver loads and launches them.
#pragma once

#include "kernels.hpp"

#include <ATen/core/Tensor.h>

#include <string>

namespace prospect::fused {

// The machine code of all kernels for an architecture such as `sm_90`; throws Unavailable.
std::string compile_kernels(const std::string& architecture);

// Whether the kernels run on this device; compiles them the first time.
bool has_kernels(int device_idx);

// Why they do not; empty when they do.
std::string kernels_failure(int device_idx);

// Has this thread's kernels for tensors in main memory run by `emulator`, or by nothing when null.
// For tests: what they find of the kernels' text holds for a device, too.
void emulate(Emulator emulator);
bool is_emulated();

// Puts a kernel on the current stream of the device of `like`.
void start(const at::Tensor& like, Kernel kernel, const Grid& grid, void** arguments);

} // namespace prospect::fused
