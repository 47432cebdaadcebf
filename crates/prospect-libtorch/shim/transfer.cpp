// Copies from the host onto a device that the host does not wait for.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/core/Tensor.h>

int prospect_upload(
    const at::Tensor* host, int device_idx, at::Tensor** out, char** message) {
  return prospect::guarded(message, [&] {
    const auto index = static_cast<c10::DeviceIndex>(device_idx);
    TORCH_CHECK(index == device_idx && index >= 0, "there is no CUDA device ", device_idx);
    const at::Device device(at::kCUDA, index);
    *out = new at::Tensor(host->pin_memory().to(device, /*non_blocking=*/true));
  });
}
