// The memory under a tensor, given back and taken again while its views stay what they are.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StorageImpl.h>

namespace {

c10::StorageImpl& storage_of(const at::Tensor& tensor) {
  auto& storage = *tensor.storage().unsafeGetStorageImpl();
  TORCH_CHECK(storage.allocator() != nullptr, "the storage has no allocator of its own");
  return storage;
}

} // namespace

int prospect_storage_release(const at::Tensor* tensor, char** message) {
  return prospect::guarded(message, [&] {
    auto& storage = storage_of(*tensor);
    storage.set_nbytes(0);
    storage.set_data_ptr_noswap(at::DataPtr(nullptr, storage.device()));
  });
}

int prospect_storage_restore(const at::Tensor* tensor, char** message) {
  return prospect::guarded(message, [&] {
    TORCH_CHECK(tensor->storage_offset() == 0, "the tensor does not begin where its storage does");
    auto& storage = storage_of(*tensor);
    if (storage.nbytes() == 0) {
      // An allocator serves the current device.
      const c10::DeviceGuard guard(storage.device());
      storage.set_data_ptr_noswap(storage.allocator()->allocate(tensor->nbytes()));
      storage.set_nbytes(tensor->nbytes());
    }
  });
}

int prospect_storage_bytes(const at::Tensor* tensor, uint64_t* out, char** message) {
  return prospect::guarded(message, [&] { *out = tensor->storage().nbytes(); });
}
