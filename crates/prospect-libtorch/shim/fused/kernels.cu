// The loops of rows.hpp on CUDA, for NVRTC: no headers. V elements of type T are moved at a time,
// 16 bytes where the place of the data allows it and one element elsewhere. Sums are fp32.

typedef long long i64;

struct bf16 {
  unsigned short bits;
};

__device__ inline float load(float x) { return x; }
__device__ inline float load(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <class T> __device__ T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
// To the nearest, ties to even.
template <> __device__ inline bf16 narrow<bf16>(float x) {
  const unsigned bits = __float_as_uint(x);
  const unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return bf16{(unsigned short)(x != x ? 0x7fc0 : rounded)};
}

template <class T, int V> struct alignas(sizeof(T) * V) Pack { T at[V]; };

template <class T, int V>
__device__ Pack<T, V> read(const T* base, i64 pack) { return ((const Pack<T, V>*)base)[pack]; }

template <class T, int V>
__device__ void write(T* base, i64 pack, const Pack<T, V>& value) { ((Pack<T, V>*)base)[pack] = value; }

// The sum over a block whose size is a multiple of 32, on all its threads.
__device__ inline float block_sum(float x) {
  __shared__ float of_warp[32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < blockDim.x / 32; ++warp) sum += of_warp[warp];
  return sum;
}

__device__ inline i64 global_index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// One block a row.
template <class T, int V>
__device__ void norm(const T* input, const T* delta, const T* weight, float eps, i64 width, T* sum, T* y, float* rstd) {
  const i64 row = blockIdx.x, begin = row * width, packs = width / V;
  float squares = 0.0f;
  for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x) {
    Pack<T, V> x = read<T, V>(input + begin, pack);
    if (delta) {
      const Pack<T, V> more = read<T, V>(delta + begin, pack);
      for (int v = 0; v < V; ++v) x.at[v] = narrow<T>(load(x.at[v]) + load(more.at[v]));
      write<T, V>(sum + begin, pack, x);
    }
    for (int v = 0; v < V; ++v) squares += load(x.at[v]) * load(x.at[v]);
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / (float)width + eps);
  if (threadIdx.x == 0) rstd[row] = scale;
  const T* source = (delta ? sum : input) + begin;
  for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x) {
    const Pack<T, V> x = read<T, V>(source, pack), w = read<T, V>(weight, pack);
    Pack<T, V> out;
    for (int v = 0; v < V; ++v) out.at[v] = narrow<T>(load(narrow<T>(load(x.at[v]) * scale)) * load(w.at[v]));
    write<T, V>(y + begin, pack, out);
  }
}

// One block a row.
template <class T, int V>
__device__ void norm_again(const T* x, const float* rstd, const T* weight, i64 width, T* y) {
  const i64 begin = (i64)blockIdx.x * width;
  const float scale = rstd[blockIdx.x];
  for (i64 pack = threadIdx.x; pack < width / V; pack += blockDim.x) {
    const Pack<T, V> in = read<T, V>(x + begin, pack), w = read<T, V>(weight, pack);
    Pack<T, V> out;
    for (int v = 0; v < V; ++v) out.at[v] = narrow<T>(load(narrow<T>(load(in.at[v]) * scale)) * load(w.at[v]));
    write<T, V>(y + begin, pack, out);
  }
}

// Each block does every gridDim.x-th row; its partial sums of the weight's gradient lie in shared
// memory, where each column belongs to one thread.
template <class T, int V>
__device__ void norm_backward(const T* grad_y, const T* x, const float* rstd, const T* weight, const T* grad_sum, i64 rows, i64 width, T* grad_x, float* partial) {
  extern __shared__ float own[];
  const i64 packs = width / V;
  for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x)
    for (int v = 0; v < V; ++v) own[pack * V + v] = 0.0f;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const i64 begin = row * width;
    float product = 0.0f;
    for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x) {
      const Pack<T, V> g = read<T, V>(grad_y + begin, pack), in = read<T, V>(x + begin, pack), w = read<T, V>(weight, pack);
      for (int v = 0; v < V; ++v) product += load(g.at[v]) * load(w.at[v]) * load(in.at[v]);
    }
    const float scale = rstd[row];
    const float factor = block_sum(product) * scale * scale / (float)width;
    for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x) {
      const Pack<T, V> g = read<T, V>(grad_y + begin, pack), in = read<T, V>(x + begin, pack), w = read<T, V>(weight, pack);
      Pack<T, V> more, out;
      if (grad_sum) more = read<T, V>(grad_sum + begin, pack);
      for (int v = 0; v < V; ++v) {
        const float gradient = load(g.at[v]), value = load(in.at[v]);
        own[pack * V + v] += gradient * load(narrow<T>(value * scale));
        const float result = scale * (gradient * load(w.at[v]) - value * factor);
        out.at[v] = narrow<T>(grad_sum ? result + load(more.at[v]) : result);
      }
      write<T, V>(grad_x + begin, pack, out);
    }
  }
  float* place = partial + (i64)blockIdx.x * width;
  for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x)
    for (int v = 0; v < V; ++v) place[pack * V + v] = own[pack * V + v];
}

// A thread turns V pairs of a head; the heads of queries come first, then those of keys.
template <class T, int V>
__device__ void rotary(const T* query, const T* key, const T* cos, const T* sin, float sign, i64 rows, i64 query_heads, i64 key_heads, i64 half, T* query_out, T* key_out) {
  const i64 packs = half / V, heads = query_heads + key_heads, idx = global_index();
  if (idx >= rows * heads * packs) return;
  const i64 pack = idx % packs, head = idx / packs % heads, row = idx / packs / heads;
  const bool of_query = head < query_heads;
  const i64 begin = (of_query ? row * query_heads + head : row * key_heads + head - query_heads) * 2 * half;
  const T* x = (of_query ? query : key) + begin;
  T* y = (of_query ? query_out : key_out) + begin;
  const Pack<T, V> a = read<T, V>(x, pack), b = read<T, V>(x + half, pack);
  const Pack<T, V> c = read<T, V>(cos + row * half, pack), s = read<T, V>(sin + row * half, pack);
  Pack<T, V> first, second;
  for (int v = 0; v < V; ++v) {
    const float turn = load(s.at[v]) * sign;
    first.at[v] = narrow<T>(load(a.at[v]) * load(c.at[v]) - load(b.at[v]) * turn);
    second.at[v] = narrow<T>(load(b.at[v]) * load(c.at[v]) + load(a.at[v]) * turn);
  }
  write<T, V>(y, pack, first);
  write<T, V>(y + half, pack, second);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T, int V>
__device__ void swiglu(const T* gate, const T* up, i64 packs, T* y) {
  const i64 pack = global_index();
  if (pack >= packs) return;
  const Pack<T, V> g = read<T, V>(gate, pack), u = read<T, V>(up, pack);
  Pack<T, V> out;
  for (int v = 0; v < V; ++v) {
    const float x = load(g.at[v]);
    out.at[v] = narrow<T>(load(narrow<T>(x * sigmoid(x))) * load(u.at[v]));
  }
  write<T, V>(y, pack, out);
}

// `grad_up` may be `grad_y`.
template <class T, int V>
__device__ void swiglu_backward(const T* gate, const T* up, const T* grad_y, i64 packs, T* grad_gate, T* grad_up, T* y) {
  const i64 pack = global_index();
  if (pack >= packs) return;
  const Pack<T, V> g = read<T, V>(gate, pack), u = read<T, V>(up, pack), d = read<T, V>(grad_y, pack);
  Pack<T, V> of_gate, of_up, out;
  for (int v = 0; v < V; ++v) {
    const float x = load(g.at[v]), s = sigmoid(x), gradient = load(d.at[v]);
    const float silu = load(narrow<T>(x * s));
    of_gate.at[v] = narrow<T>(gradient * load(u.at[v]) * s * (1.0f + x * (1.0f - s)));
    of_up.at[v] = narrow<T>(gradient * silu);
    out.at[v] = narrow<T>(silu * load(u.at[v]));
  }
  write<T, V>(grad_gate, pack, of_gate);
  write<T, V>(grad_up, pack, of_up);
  if (y) write<T, V>(y, pack, out);
}

#define MINUS_INFINITY __uint_as_float(0xff800000u)

// Adds another part's maximum and sum of exponentials to one's own.
__device__ inline void merge(float& maximum, float& sum, float other, float other_sum) {
  const float largest = fmaxf(maximum, other);
  if (largest == MINUS_INFINITY) return;
  sum = sum * expf(maximum - largest) + other_sum * expf(other - largest);
  maximum = largest;
}

// One block a row.
extern "C" __global__ void head_visit(const float* logits, const i64* targets, i64 first_token, i64 width, float* maximum, float* sum, float* chosen) {
  __shared__ float maxima[32], sums[32];
  const i64 row = blockIdx.x;
  const float* own = logits + row * width;
  float largest = MINUS_INFINITY, total = 0.0f;
  for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
    const float x = own[i];
    // One exponential an element: the running maximum seldom changes.
    if (x > largest) {
      total = total * expf(largest - x) + 1.0f;
      largest = x;
    } else if (largest != MINUS_INFINITY || x != x) {
      total += expf(x - largest);
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, offset);
    const float other_sum = __shfl_xor_sync(0xffffffffu, total, offset);
    merge(largest, total, other, other_sum);
  }
  if (threadIdx.x % 32 == 0) {
    maxima[threadIdx.x / 32] = largest;
    sums[threadIdx.x / 32] = total;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  float all = maximum[row], all_sum = sum[row];
  for (int warp = 0; warp < blockDim.x / 32; ++warp) merge(all, all_sum, maxima[warp], sums[warp]);
  maximum[row] = all;
  sum[row] = all_sum;
  const i64 target = targets[row] - first_token;
  if (target >= 0 && target < width) chosen[row] = own[target];
}

// One block a row. `gradient` may be `logits`.
template <class T>
__device__ void head_gradient(const float* logits, const float* normalizers, const float* coefficients, const i64* targets, i64 first_token, i64 width, T* gradient) {
  const i64 row = blockIdx.x, target = targets[row] - first_token;
  const float normalizer = normalizers[row], coefficient = coefficients[row];
  for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
    const float probability = expf(logits[row * width + i] - normalizer);
    gradient[row * width + i] = narrow<T>(((i == target ? 1.0f : 0.0f) - probability) * coefficient);
  }
}

extern "C" __global__ void head_gradient_f32(const float* logits, const float* normalizers, const float* coefficients, const i64* targets, i64 first_token, i64 width, float* gradient) {
  head_gradient<float>(logits, normalizers, coefficients, targets, first_token, width, gradient);
}

extern "C" __global__ void head_gradient_bf16(const float* logits, const float* normalizers, const float* coefficients, const i64* targets, i64 first_token, i64 width, bf16* gradient) {
  head_gradient<bf16>(logits, normalizers, coefficients, targets, first_token, width, gradient);
}

#define KERNELS(T, V, suffix) \
  extern "C" __global__ void norm_##suffix(const T* input, const T* delta, const T* weight, float eps, i64 width, T* sum, T* y, float* rstd) { \
    norm<T, V>(input, delta, weight, eps, width, sum, y, rstd); \
  } \
  extern "C" __global__ void norm_again_##suffix(const T* x, const float* rstd, const T* weight, i64 width, T* y) { \
    norm_again<T, V>(x, rstd, weight, width, y); \
  } \
  extern "C" __global__ void norm_backward_##suffix(const T* grad_y, const T* x, const float* rstd, const T* weight, const T* grad_sum, i64 rows, i64 width, T* grad_x, float* partial) { \
    norm_backward<T, V>(grad_y, x, rstd, weight, grad_sum, rows, width, grad_x, partial); \
  } \
  extern "C" __global__ void rotary_##suffix(const T* query, const T* key, const T* cos, const T* sin, float sign, i64 rows, i64 query_heads, i64 key_heads, i64 half, T* query_out, T* key_out) { \
    rotary<T, V>(query, key, cos, sin, sign, rows, query_heads, key_heads, half, query_out, key_out); \
  } \
  extern "C" __global__ void swiglu_##suffix(const T* gate, const T* up, i64 packs, T* y) { \
    swiglu<T, V>(gate, up, packs, y); \
  } \
  extern "C" __global__ void swiglu_backward_##suffix(const T* gate, const T* up, const T* grad_y, i64 packs, T* grad_gate, T* grad_up, T* y) { \
    swiglu_backward<T, V>(gate, up, grad_y, packs, grad_gate, grad_up, y); \
  }

KERNELS(float, 4, f32_wide)
KERNELS(float, 1, f32_one)
KERNELS(bf16, 8, bf16_wide)
KERNELS(bf16, 1, bf16_one)
