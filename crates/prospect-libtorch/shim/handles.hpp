// What the opaque pointers of the C ABI point to. Shared with the CUDA half.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <vector>

struct prospect_store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct prospect_group {
  // The store outlives the backend: members are destroyed in reverse order.
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> backend;
  // Gloo has no abort of its own; a backend that has one leaves this null.
  void (*abort)(c10d::Backend&) = nullptr;
  // The CUDA device of NCCL's collectives; Gloo has none.
  int device_idx = -1;
};

struct prospect_work {
  c10::intrusive_ptr<c10d::Work> work;
  // The collective reads and writes these until it is done.
  std::vector<at::Tensor> tensors;
};
