// kernels.cu as C++ on a CPU, for the tests: the very text that NVRTC gets. The lanes of a block
// are coroutines. A lane runs until it meets others. Mostly it is a lane of the same warp that goes
// on next, so that a warp runs far ahead of the others and a barrier that is missing shows; now
// and then it is any. Blocks run one after the other.
#include "kernels.hpp"

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace {

struct Index {
  unsigned x;
};

constexpr unsigned kWarp = 32;
constexpr unsigned kMostLanes = 1024;
constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kSharedFloats = (48 << 10) / sizeof(float);

// Where a lane is.
enum class At { kReady, kWarpBarrier, kBlockBarrier, kEnd };

struct Lane {
  ucontext_t context;
  std::vector<char> stack;
  At at;
};

// One block and its lanes.
struct Block {
  std::vector<Lane> lanes;
  ucontext_t scheduler;
  unsigned running = 0;
  // What each lane has for the others of its warp.
  std::vector<float> exchanged = std::vector<float>(kMostLanes);
  uint64_t random = 0x9e3779b97f4a7c15;
  void (*kernel)(void** arguments) = nullptr;
  void** arguments = nullptr;
};

// A block runs on the thread that asked for it.
thread_local Block block;

} // namespace

thread_local Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

void wait_at(At barrier) {
  Lane& lane = block.lanes[block.running];
  lane.at = barrier;
  swapcontext(&lane.context, &block.scheduler);
}

} // namespace

#define __device__
#define __global__ __attribute__((visibility("hidden")))
// A thread's variable is shared by all lanes that run on it.
#define __shared__ thread_local

static void __syncthreads() {
  wait_at(At::kBlockBarrier);
}

static float __shfl_xor_sync(unsigned, float value, int offset) {
  const unsigned lane = block.running;
  block.exchanged[lane] = value;
  wait_at(At::kWarpBarrier);
  const float other = block.exchanged[lane ^ static_cast<unsigned>(offset)];
  wait_at(At::kWarpBarrier);
  return other;
}

static float __uint_as_float(unsigned bits) {
  return __builtin_bit_cast(float, bits);
}

static unsigned __float_as_uint(float x) {
  return __builtin_bit_cast(unsigned, x);
}

namespace kernels {

thread_local float own[kSharedFloats];

#include "kernels.cu"

} // namespace kernels

namespace {

template <class... Args, size_t... I>
void call(void (*kernel)(Args...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<Args*>(arguments[I])...);
}

template <class... Args>
void call(void (*kernel)(Args...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<Args...>());
}

using Run = void (*)(void** arguments);
constexpr Run kKernels[] = {
#define PROSPECT_RUN(name) [](void** arguments) { call(&kernels::name, arguments); },
    PROSPECT_KERNELS(PROSPECT_RUN)};

void run_lane() {
  block.kernel(block.arguments);
  block.lanes[block.running].at = At::kEnd;
}

// Xorshift (Marsaglia 2003).
uint64_t draw() {
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  block.random ^= block.random << 17;
  return block.random;
}

// Lets the lanes from `first` to `last` go on, if all of them are at this barrier; a warp that is
// drawn is the next.
void release(unsigned first, unsigned last, At barrier, std::vector<unsigned>& ready) {
  for (unsigned lane = first; lane < last; ++lane) {
    if (block.lanes[lane].at != barrier) {
      return;
    }
  }
  const unsigned count = last - first, shift = draw() % count / kWarp * kWarp;
  for (unsigned idx = 0; idx < count; ++idx) {
    const unsigned lane = first + (idx + shift) % count;
    block.lanes[lane].at = At::kReady;
    ready.push_back(lane);
  }
}

// False if lanes wait for others that never come.
bool run_block(unsigned num_lanes) {
  std::vector<unsigned> ready;
  for (unsigned idx = 0; idx < num_lanes; ++idx) {
    Lane& lane = block.lanes[idx];
    lane.stack.resize(kStackBytes);
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.data();
    lane.context.uc_stack.ss_size = lane.stack.size();
    lane.context.uc_link = &block.scheduler;
    makecontext(&lane.context, &run_lane, 0);
    lane.at = At::kReady;
    ready.push_back(idx);
  }
  unsigned num_ended = 0;
  while (!ready.empty()) {
    if (draw() % 16 == 0) {
      std::swap(ready[draw() % ready.size()], ready.back());
    }
    const unsigned idx = ready.back();
    ready.pop_back();
    block.running = idx;
    threadIdx.x = idx;
    swapcontext(&block.scheduler, &block.lanes[idx].context);
    switch (block.lanes[idx].at) {
      case At::kWarpBarrier: {
        const unsigned first = idx / kWarp * kWarp;
        release(first, first + kWarp, At::kWarpBarrier, ready);
        break;
      }
      case At::kBlockBarrier:
        release(0, num_lanes, At::kBlockBarrier, ready);
        break;
      default:
        ++num_ended;
    }
  }
  return num_ended == num_lanes;
}

} // namespace

extern "C" const char* prospect_emulate_kernel(
    int kernel, const prospect::fused::Grid* grid, void** arguments) {
  if (kernel < 0 || kernel >= prospect::fused::kNumKernels) {
    return "there is no such kernel";
  }
  if (grid->threads == 0 || grid->threads > kMostLanes || grid->threads % kWarp != 0) {
    return "a block has to have 1 to 32 whole warps";
  }
  if (grid->shared_bytes > sizeof(kernels::own)) {
    return "a block has 48 KiB of shared memory";
  }
  if (block.lanes.size() < grid->threads) {
    block.lanes.resize(grid->threads);
  }
  block.kernel = kKernels[kernel];
  block.arguments = arguments;
  blockDim.x = grid->threads;
  gridDim.x = grid->blocks;
  for (unsigned idx = 0; idx < grid->blocks; ++idx) {
    blockIdx.x = idx;
    // What nobody has written is nothing to count on.
    for (float& place : kernels::own) {
      place = std::numeric_limits<float>::quiet_NaN();
    }
    if (!run_block(grid->threads)) {
      return "lanes wait for others that do not come";
    }
  }
  return nullptr;
}
