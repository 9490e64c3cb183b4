// CPU face of the fused reverse step: plain C functions for ctypes.
#include "residual_shift.h"

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#if defined(_WIN32)
#define LPNSR_EXPORT extern "C" __declspec(dllexport)
#else
#define LPNSR_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// One copy of a function for each width of vectors; the dynamic linker chooses. gcc would drop the
// copies if it put the function into its caller.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define LPNSR_CLONES \
  __attribute__((noinline, target_clones("default", "avx2", "avx512f")))
#else
#define LPNSR_CLONES
#endif

using namespace lpnsr;

// Mirrored by Update in library.py. Tensors are (batch, channels, height, width), contiguous.
struct Update {
  Step step;
  u32 draw, batch, channels, height, width;
  const Origin* origins;  // (batch,), or null where eps is read
  const float *x, *x0, *y, *mean, *logvar, *weight, *eps;  // null where left out
  float *out, *scaled;                                      // scaled may be null
};

namespace {

constexpr u32 kBlock = 512;  // values of one channel at a time, so that all scratch stays in cache
constexpr u64 kBlocksPerThread = 32;  // fewer take less time than it takes to start a thread
using Block = std::array<float, kBlock>;

constexpr Block filled(float value) {
  Block block{};
  for (u32 i = 0; i < kBlock; ++i) block[i] = value;
  return block;
}

constexpr Block kZeros = filled(0.0f), kOnes = filled(1.0f);

u32 plane(const Update& u) { return u.height * u.width; }
u32 quads(const Update& u) { return (u.channels + 3) / 4; }
u32 blocks(const Update& u) { return (plane(u) + kBlock - 1) / kBlock; }

// Noise of `count` values of four planes from value `first` on.
LPNSR_INLINE void fill_noise(const Update& u, u32 item, u32 quad, u32 first, u32 count,
                             Block (&noise_of)[4]) {
  const Origin origin = u.origins[item];
  for (u32 done = 0; done < count;) {
    const u32 row = (first + done) / u.width, column = (first + done) % u.width;
    const u32 run = std::min(u.width - column, count - done);
    float* a = noise_of[0].data() + done;
    float* b = noise_of[1].data() + done;
    float* c = noise_of[2].data() + done;
    float* d = noise_of[3].data() + done;
#pragma omp simd
    for (u32 i = 0; i < run; ++i) {
      const Quad quad_noise = noise(origin, u.draw, quad, row, column + i);
      a[i] = quad_noise.value[0];
      b[i] = quad_noise.value[1];
      c[i] = quad_noise.value[2];
      d[i] = quad_noise.value[3];
    }
    done += run;
  }
}

// The step on `count` values from `offset` on; `made` is their noise if none is read.
LPNSR_INLINE void update_values(const Update& u, u64 offset, u32 count, const float* made) {
  Block unused;
  const auto at = [offset](const float* tensor, const Block& otherwise) {
    return tensor ? tensor + offset : otherwise.data();
  };
  const float* x = at(u.x, kZeros);
  const float* x0 = at(u.x0, kZeros);
  const float* y = at(u.y, kZeros);
  const float* mean = at(u.mean, kZeros);
  const float* logvar = at(u.logvar, kZeros);
  const float* weight = at(u.weight, kOnes);
  const float* eps = u.origins ? made : at(u.eps, kZeros);
  float* out = u.out + offset;
  float* scaled = u.scaled ? u.scaled + offset : unused.data();
  const Step step = u.step;
#pragma omp simd
  for (u32 i = 0; i < count; ++i) {
    const Terms terms{x[i], x0[i], y[i], mean[i], logvar[i], weight[i], eps[i]};
    const float next = residual_shift(step, terms);
    out[i] = next;
    scaled[i] = next * step.next_scale;
  }
}

// Blocks `begin` to `end` of all; a block is the same part of up to four channels.
LPNSR_CLONES void update_blocks(const Update& u, u64 begin, u64 end) {
  Block made[4];
  for (u64 index = begin; index < end; ++index) {
    const u32 first = u32(index % blocks(u)) * kBlock;
    const u32 quad = u32(index / blocks(u) % quads(u));
    const u32 item = u32(index / blocks(u) / quads(u));
    const u32 count = std::min(kBlock, plane(u) - first);
    if (u.origins) fill_noise(u, item, quad, first, count, made);
    for (u32 channel = 4 * quad; channel < std::min(4 * quad + 4, u.channels); ++channel) {
      const u64 offset = (u64{item} * u.channels + channel) * plane(u) + first;
      update_values(u, offset, count, made[channel % 4].data());
    }
  }
}

}  // namespace

// Size of Update, by which a library of another version is told.
LPNSR_EXPORT u32 lpnsr_update_size() { return sizeof(Update); }

// Words of `count` counters, each four words.
LPNSR_EXPORT void lpnsr_philox4x32(const Words* counters, u32 count, u32 key_low, u32 key_high,
                                   Words* words) {
  for (u32 i = 0; i < count; ++i) words[i] = philox4x32(counters[i], key_low, key_high);
}

// One reverse step. `threads` is an upper limit; 0 means all that the machine has.
LPNSR_EXPORT void lpnsr_residual_shift(const Update* update, u32 threads) {
  const u64 total = u64{update->batch} * quads(*update) * blocks(*update);
  u64 shares = std::max<u64>(total / kBlocksPerThread, 1);
  if (shares > 1) {  // asking the system takes as long as a small step
    const u32 limit = threads ? threads : std::thread::hardware_concurrency();
    shares = std::clamp<u64>(limit, 1, shares);
  }
  const auto run = [&](u64 share) {
    update_blocks(*update, total * share / shares, total * (share + 1) / shares);
  };
  std::vector<std::thread> others;
  for (u64 share = 1; share < shares; ++share) {
    try {
      others.emplace_back(run, share);
    } catch (...) {  // the system has no thread left
      run(share);
    }
  }
  run(0);
  for (std::thread& other : others) other.join();
}
