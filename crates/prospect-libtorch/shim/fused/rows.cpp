// The loops of rows.hpp. Each body is inlined into one function an instruction set; the right one
// is chosen when the program starts.
#include "rows.hpp"

#include <cmath>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PROSPECT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PROSPECT_CLONES
#endif
#define PROSPECT_INLINE static inline __attribute__((always_inline))

namespace prospect::rows {
namespace {

PROSPECT_INLINE float load(float x) {
  return x;
}

PROSPECT_INLINE float load(Bf16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

PROSPECT_INLINE void store(float* place, float x) {
  *place = x;
}

// To the nearest, ties to even; a NaN stays one.
PROSPECT_INLINE void store(Bf16* place, float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t nan = 0u - static_cast<uint32_t>((bits & 0x7fffffff) > 0x7f800000);
  place->bits = static_cast<uint16_t>((rounded & ~nan) | (0x7fc0 & nan));
}

// What x becomes in this type.
PROSPECT_INLINE float rounded(float, float x) {
  return x;
}

PROSPECT_INLINE float rounded(Bf16, float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t kept = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  return __builtin_bit_cast(float, kept);
}

// e^x to 2 units in the last place, without branches: x = n ln 2 + r, then a polynomial in r
// (Cephes' expf). What is outside of the normal numbers becomes the nearest one of them; a NaN
// stays one, by way of r, and n is 0 then, since it has no integer.
PROSPECT_INLINE float exponential(float x) {
  const float below = x > 88.3f ? 88.3f : x;
  const float bounded = below < -87.3f ? -87.3f : below;
  // The shift makes it positive, so that cutting off rounds to the nearest.
  const float shifted = bounded * 1.44269504088896341f + 128.5f;
  const int32_t n = static_cast<int32_t>(shifted == shifted ? shifted : 128.0f) - 128;
  const float power = static_cast<float>(n);
  const float r = bounded - power * 0.693359375f + power * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return y * __builtin_bit_cast(float, (n + 127) * (1 << 23));
}

// Partial sums that vector units add in parallel, in an order that no instruction set changes.
constexpr int64_t kLanes = 32;

template <class Term>
PROSPECT_INLINE float sum_of(int64_t width, Term term) {
  float lanes[kLanes] = {};
  int64_t at = 0;
  for (; at + kLanes <= width; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += term(at + lane);
    }
  }
  float rest = 0.0f;
  for (; at < width; ++at) {
    rest += term(at);
  }
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      lanes[lane] += lanes[lane + half];
    }
  }
  return lanes[0] + rest;
}

template <class T>
PROSPECT_INLINE void norm_row(
    const T* __restrict x, float scale, const T* __restrict weight, int64_t width, T* __restrict y) {
  for (int64_t i = 0; i < width; ++i) {
    store(y + i, rounded(T{}, load(x[i]) * scale) * load(weight[i]));
  }
}

template <class T>
PROSPECT_INLINE void body(const NormForward<T>& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* x = a.input + row * a.width;
    if (a.delta != nullptr) {
      const T* __restrict delta = a.delta + row * a.width;
      T* __restrict sum = a.sum + row * a.width;
      for (int64_t i = 0; i < a.width; ++i) {
        store(sum + i, load(x[i]) + load(delta[i]));
      }
      x = sum;
    }
    const float squares = sum_of(
        a.width, [=](int64_t i) __attribute__((always_inline)) { return load(x[i]) * load(x[i]); });
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(a.width) + a.eps);
    a.rstd[row] = scale;
    norm_row(x, scale, a.weight, a.width, a.y + row * a.width);
  }
}

template <class T>
PROSPECT_INLINE void body(const NormApply<T>& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    norm_row(a.x + row * a.width, a.rstd[row], a.weight, a.width, a.y + row * a.width);
  }
}

// With h = x * rstd and g = grad_y * w: grad_x = rstd * (g - h * mean(g * h)).
template <class T>
PROSPECT_INLINE void body(const NormBackward<T>& a, int64_t begin, int64_t end) {
  for (int64_t part = begin; part < end; ++part) {
    float* __restrict partial = a.partial + part * a.width;
    std::memset(partial, 0, static_cast<size_t>(a.width) * sizeof(float));
    const int64_t last = (part + 1) * kRowsPerPartial;
    for (int64_t row = part * kRowsPerPartial; row < (last < a.num_rows ? last : a.num_rows);
         ++row) {
      const T* __restrict grad_y = a.grad_y + row * a.width;
      const T* __restrict x = a.x + row * a.width;
      const T* __restrict weight = a.weight;
      T* __restrict grad_x = a.grad_x + row * a.width;
      const float scale = a.rstd[row];
      const float product = sum_of(a.width, [=](int64_t i) __attribute__((always_inline)) {
        return load(grad_y[i]) * load(weight[i]) * load(x[i]);
      });
      const float factor = product * scale * scale / static_cast<float>(a.width);
      if (a.grad_sum == nullptr) {
        for (int64_t i = 0; i < a.width; ++i) {
          const float g = load(grad_y[i]), v = load(x[i]);
          partial[i] += g * rounded(T{}, v * scale);
          store(grad_x + i, scale * (g * load(weight[i]) - v * factor));
        }
      } else {
        const T* __restrict grad_sum = a.grad_sum + row * a.width;
        for (int64_t i = 0; i < a.width; ++i) {
          const float g = load(grad_y[i]), v = load(x[i]);
          partial[i] += g * rounded(T{}, v * scale);
          store(grad_x + i, scale * (g * load(weight[i]) - v * factor) + load(grad_sum[i]));
        }
      }
    }
  }
}

template <class T>
PROSPECT_INLINE void body(const Rotary<T>& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict cos = a.cos + row * a.half;
    const T* __restrict sin = a.sin + row * a.half;
    for (int64_t head = 0; head < a.heads; ++head) {
      const int64_t offset = (row * a.heads + head) * 2 * a.half;
      const T* __restrict x = a.x + offset;
      T* __restrict y = a.y + offset;
      for (int64_t i = 0; i < a.half; ++i) {
        const float first = load(x[i]), second = load(x[i + a.half]);
        const float c = load(cos[i]), s = load(sin[i]) * a.sign;
        store(y + i, first * c - second * s);
        store(y + i + a.half, second * c + first * s);
      }
    }
  }
}

PROSPECT_INLINE float sigmoid(float x) {
  return 1.0f / (1.0f + exponential(-x));
}

template <class T>
PROSPECT_INLINE void body(const Swiglu<T>& a, int64_t begin, int64_t end) {
  const T* __restrict gate = a.gate;
  const T* __restrict up = a.up;
  T* __restrict y = a.y;
  for (int64_t i = begin; i < end; ++i) {
    const float g = load(gate[i]);
    store(y + i, rounded(T{}, g * sigmoid(g)) * load(up[i]));
  }
}

// Each element is read before it is written, so `grad_up` may be `grad_y`; the vector units are
// told so.
template <class T>
PROSPECT_INLINE void body(const SwigluBackward<T>& a, int64_t begin, int64_t end) {
  const auto each = [&](int64_t i, T* y) __attribute__((always_inline)) {
    const float g = load(a.gate[i]), u = load(a.up[i]), gradient = load(a.grad_y[i]);
    const float s = sigmoid(g);
    const float silu = rounded(T{}, g * s);
    store(a.grad_gate + i, gradient * u * s * (1.0f + g * (1.0f - s)));
    store(a.grad_up + i, gradient * silu);
    if (y != nullptr) {
      store(y + i, silu * u);
    }
  };
  if (a.y == nullptr) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      each(i, nullptr);
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      each(i, a.y);
    }
  }
}

PROSPECT_INLINE float largest_of(const float* __restrict x, int64_t width, float start) {
  float lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = start;
  }
  int64_t at = 0;
  for (; at + kLanes <= width; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = x[at + lane] > lanes[lane] ? x[at + lane] : lanes[lane];
    }
  }
  for (; at < width; ++at) {
    lanes[0] = x[at] > lanes[0] ? x[at] : lanes[0];
  }
  float largest = start;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    largest = lanes[lane] > largest ? lanes[lane] : largest;
  }
  return largest;
}

PROSPECT_INLINE void body(const HeadVisit& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* __restrict logits = a.logits + row * a.width;
    const float before = a.maximum[row];
    const float maximum = largest_of(logits, a.width, before);
    // Nothing but minus infinity so far: its distance from itself would be no number.
    const float origin = maximum == -INFINITY ? 0.0f : maximum;
    const float added = sum_of(a.width, [=](int64_t i) __attribute__((always_inline)) {
      return exponential(logits[i] - origin);
    });
    a.sum[row] = a.sum[row] * exponential(before - origin) + added;
    a.maximum[row] = maximum;
    const int64_t target = a.targets[row] - a.first_token;
    if (target >= 0 && target < a.width) {
      a.chosen[row] = logits[target];
    }
  }
}

template <class T>
PROSPECT_INLINE void body(const HeadGradient<T>& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* logits = a.logits + row * a.width;
    T* gradient = a.gradient + row * a.width;
    const float normalizer = a.normalizers[row], coefficient = a.coefficients[row];
    const int64_t target = a.targets[row] - a.first_token;
    const bool inside = target >= 0 && target < a.width;
    const float chosen = inside ? logits[target] : 0.0f;
#pragma GCC ivdep
    for (int64_t i = 0; i < a.width; ++i) {
      store(gradient + i, -coefficient * exponential(logits[i] - normalizer));
    }
    if (inside) {
      store(gradient + target, coefficient * (1.0f - exponential(chosen - normalizer)));
    }
  }
}

} // namespace

#define PROSPECT_RUN(Op, name)                                             \
  PROSPECT_CLONES void name(const Op& a, int64_t begin, int64_t end) {     \
    body(a, begin, end);                                                   \
  }                                                                        \
  template <>                                                              \
  void Op::run(int64_t begin, int64_t end) const {                         \
    name(*this, begin, end);                                               \
  }
#define PROSPECT_BOTH(Op, name)          \
  PROSPECT_RUN(Op<float>, name##_float)  \
  PROSPECT_RUN(Op<Bf16>, name##_bf16)

PROSPECT_BOTH(NormForward, norm_forward)
PROSPECT_BOTH(NormApply, norm_apply)
PROSPECT_BOTH(NormBackward, norm_backward)
PROSPECT_BOTH(Rotary, rotary)
PROSPECT_BOTH(Swiglu, swiglu)
PROSPECT_BOTH(SwigluBackward, swiglu_backward)
PROSPECT_BOTH(HeadGradient, head_gradient)

PROSPECT_CLONES void head_visit(const HeadVisit& a, int64_t begin, int64_t end) {
  body(a, begin, end);
}

void HeadVisit::run(int64_t begin, int64_t end) const {
  head_visit(*this, begin, end);
}

} // namespace prospect::rows
