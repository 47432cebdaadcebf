// The elementwise work of a block and of the head on a CPU, each in one walk over its rows. Plain
// loops without ATen, compiled for several instruction sets; sums are fp32 whatever the type.
//
// All matrices are contiguous with `width` columns. `run` does rows `begin` to `end`.
#pragma once

#include <cstdint>

namespace prospect::rows {

// A bfloat16 by its bits.
struct Bf16 {
  uint16_t bits;
};

// Rows that share one partial sum of a norm weight's gradient, so that the sum does not depend on
// the number of threads.
constexpr int64_t kRowsPerPartial = 64;

// y = round(x * rstd) * w, with x = input + delta where there is a delta.
template <class T>
struct NormForward {
  const T* input;
  const T* delta; // may be null
  const T* weight;
  float eps;
  int64_t width;
  T* sum; // null without delta
  T* y;
  float* rstd;
  void run(int64_t begin, int64_t end) const;
};

// y once more from the reciprocal roots.
template <class T>
struct NormApply {
  const T* x;
  const float* rstd;
  const T* weight;
  int64_t width;
  T* y;
  void run(int64_t begin, int64_t end) const;
};

// Gradient of x, plus that of the sum where it has one of its own, and the partial sums
// [ceil(rows / kRowsPerPartial), width] of the weight's. `begin` and `end` count partial sums.
template <class T>
struct NormBackward {
  const T* grad_y;
  const T* x;
  const float* rstd;
  const T* weight;
  const T* grad_sum; // may be null
  int64_t num_rows;
  int64_t width;
  T* grad_x;
  float* partial;
  void run(int64_t begin, int64_t end) const;
};

// Turns each head's halves: (a, b) -> (a cos - b sin, b cos + a sin), with sin times `sign`.
template <class T>
struct Rotary {
  const T* x; // [rows, heads * 2 * half]
  const T* cos; // [rows, half]
  const T* sin; // [rows, half]
  float sign;
  int64_t heads;
  int64_t half;
  T* y;
  void run(int64_t begin, int64_t end) const;
};

// round(silu(gate)) * up. Rows have one element.
template <class T>
struct Swiglu {
  const T* gate;
  const T* up;
  T* y;
  void run(int64_t begin, int64_t end) const;
};

// `grad_up` may be `grad_y`. Rows have one element.
template <class T>
struct SwigluBackward {
  const T* gate;
  const T* up;
  const T* grad_y;
  T* grad_gate;
  T* grad_up;
  T* y; // null, or where y is computed again
  void run(int64_t begin, int64_t end) const;
};

// Takes a tile of logits [rows, width], of the tokens from `first_token`, into the running maximum
// and the sum of exponentials, and notes the target's logit if the tile has it.
struct HeadVisit {
  const float* logits;
  const int64_t* targets;
  int64_t first_token;
  int64_t width;
  float* maximum;
  float* sum;
  float* chosen;
  void run(int64_t begin, int64_t end) const;
};

// (onehot - exp(logit - normalizer)) * coefficient. `gradient` may be `logits`.
template <class T>
struct HeadGradient {
  const float* logits;
  const float* normalizers;
  const float* coefficients;
  const int64_t* targets;
  int64_t first_token;
  int64_t width;
  T* gradient;
  void run(int64_t begin, int64_t end) const;
};

} // namespace prospect::rows
