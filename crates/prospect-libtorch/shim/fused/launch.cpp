#include "launch.hpp"

#include "driver.hpp"

#include <ATen/Functions.h>

#include <algorithm>
#include <initializer_list>

namespace prospect::fused {
namespace {

using at::Tensor;

struct Shape {
  int64_t blocks;
  int64_t threads;
  int64_t shared_bytes = 0;
};

// Arguments are passed by address, so each has the type that the kernel declares.
template <class... Args>
void launch(const Tensor& like, Kernel kernel, const Shape& shape, Args... args) {
  if (shape.blocks == 0) {
    return;
  }
  void* addresses[] = {static_cast<void*>(&args)...};
  const Grid grid{
      static_cast<unsigned>(shape.blocks),
      static_cast<unsigned>(shape.threads),
      static_cast<unsigned>(shape.shared_bytes)};
  start(like, kernel, grid, addresses);
}

void* pointer(const Tensor& x) {
  return x.defined() ? x.data_ptr() : nullptr;
}

bool is_f32(const Tensor& x) {
  return x.scalar_type() == at::kFloat;
}

// The kernels' form for rows of `width` elements in these places, and the elements it moves at a
// time.
struct Form {
  int idx = 0;
  int64_t pack = 1;

  Form(int64_t width, std::initializer_list<Tensor> places) {
    const Tensor& first = *places.begin();
    const int64_t wide = 16 / first.element_size();
    const bool aligned = std::all_of(places.begin(), places.end(), [](const Tensor& x) {
      return reinterpret_cast<uintptr_t>(pointer(x)) % 16 == 0;
    });
    const bool packed = aligned && width % wide == 0;
    pack = packed ? wide : 1;
    idx = (is_f32(first) ? 0 : 2) + (packed ? 0 : 1);
  }

  // Of the kernel whose first form is given.
  Kernel of(Kernel first) const {
    return static_cast<Kernel>(first + idx);
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
      form.of(k_norm_f32_wide),
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
      form.of(k_norm_again_f32_wide),
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
      form.of(k_norm_backward_f32_wide),
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
      form.of(k_rotary_f32_wide),
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
      form.of(k_swiglu_f32_wide),
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
      form.of(k_swiglu_backward_f32_wide),
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
      k_head_visit,
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
      is_f32(gradient) ? k_head_gradient_f32 : k_head_gradient_bf16,
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
