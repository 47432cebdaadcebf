// The kernels of kernels.cu by number. Those of the blocks have four forms in a row.
#pragma once

#define PROSPECT_FORMS(EACH, op) \
  EACH(op##_f32_wide) EACH(op##_f32_one) EACH(op##_bf16_wide) EACH(op##_bf16_one)

#define PROSPECT_KERNELS(EACH) \
  PROSPECT_FORMS(EACH, norm) \
  PROSPECT_FORMS(EACH, norm_again) \
  PROSPECT_FORMS(EACH, norm_backward) \
  PROSPECT_FORMS(EACH, rotary) \
  PROSPECT_FORMS(EACH, swiglu) \
  PROSPECT_FORMS(EACH, swiglu_backward) \
  EACH(head_visit) \
  EACH(head_gradient_f32) \
  EACH(head_gradient_bf16)

namespace prospect::fused {

enum Kernel : int {
#define PROSPECT_NUMBER(name) k_##name,
  PROSPECT_KERNELS(PROSPECT_NUMBER)
#undef PROSPECT_NUMBER
  kNumKernels,
};

// How many blocks of how many threads, and what of the shared memory is sized at the launch.
struct Grid {
  unsigned blocks;
  unsigned threads;
  unsigned shared_bytes;
};

// Runs a kernel to its end on tensors in main memory; arguments are given by address. Returns a
// text where it cannot.
using Emulator = const char* (*)(int kernel, const Grid* grid, void** arguments);

} // namespace prospect::fused
