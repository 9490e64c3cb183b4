// CUDA face of the fused reverse step: see launch in cuda.py for the arguments.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "residual_shift.h"

using namespace lpnsr;

namespace {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float(float value) {
  return __float2bfloat16_rn(value);
}

// V neighbours of a row, read and written at once.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T value[V];
};

// `tensor` is null where it is left out.
template <typename T, int V>
__device__ __forceinline__ void read(const T* tensor, u64 offset, float otherwise,
                                     float (&values)[V]) {
  Pack<T, V> pack;
  if (tensor) pack = *reinterpret_cast<const Pack<T, V>*>(tensor + offset);
#pragma unroll
  for (int i = 0; i < V; ++i) values[i] = tensor ? to_float(pack.value[i]) : otherwise;
}

// One thread has V columns of a row in the four channels whose noise is made together. The grid is
// (parts of a plane, quads of channels, batch items).
template <typename T, int V>
__device__ __forceinline__ void update(const Step& step, u32 draw, u32 channels, u32 height,
                                       u32 width, const Origin* origins, const T* x, const T* x0,
                                       const T* y, const T* mean, const T* logvar, const T* weight,
                                       const T* eps, T* out, T* scaled) {
  const u32 plane = height * width, quad = blockIdx.y, item = blockIdx.z;
  const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (first >= plane) return;
  float made[4][V];
  if (origins) {
    const Origin origin = origins[item];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Quad values = noise(origin, draw, quad, first / width, first % width + i);
#pragma unroll
      for (int c = 0; c < 4; ++c) made[c][i] = values.value[c];
    }
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const u32 channel = 4 * quad + c;
    if (channel >= channels) return;
    const u64 offset = (u64{item} * channels + channel) * plane + first;
    const Terms absent;
    float of_x[V], of_x0[V], of_y[V], of_mean[V], of_logvar[V], of_weight[V], of_eps[V];
    read(x, offset, absent.x, of_x);
    read(x0, offset, absent.x0, of_x0);
    read(y, offset, absent.y, of_y);
    read(mean, offset, absent.mean, of_mean);
    read(logvar, offset, absent.logvar, of_logvar);
    read(weight, offset, absent.weight, of_weight);
    read(eps, offset, absent.eps, of_eps);
    Pack<T, V> next, next_scaled;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Terms terms{of_x[i],      of_x0[i],     of_y[i], of_mean[i],
                        of_logvar[i], of_weight[i], origins ? made[c][i] : of_eps[i]};
      const float value = residual_shift(step, terms);
      next.value[i] = from_float<T>(value);
      next_scaled.value[i] = from_float<T>(value * step.next_scale);
    }
    *reinterpret_cast<Pack<T, V>*>(out + offset) = next;
    if (scaled) *reinterpret_cast<Pack<T, V>*>(scaled + offset) = next_scaled;
  }
}

}  // namespace

// `_wide` takes 16 bytes at a time; its width is a multiple of that, and its tensors are aligned.
#define LPNSR_KERNEL(NAME, T, V)                                                                   \
  extern "C" __global__ void __launch_bounds__(128)                                                \
      NAME(float state, float prediction, float start, float noise, float next_scale, u32 draw,    \
           u32 channels, u32 height, u32 width, const Origin* origins, const T* x, const T* x0,    \
           const T* y, const T* mean, const T* logvar, const T* weight, const T* eps, T* out,      \
           T* scaled) {                                                                            \
    update<T, V>({state, prediction, start, noise, next_scale}, draw, channels, height, width,     \
                 origins, x, x0, y, mean, logvar, weight, eps, out, scaled);                       \
  }

LPNSR_KERNEL(residual_shift_float32, float, 1)
LPNSR_KERNEL(residual_shift_float32_wide, float, 4)
LPNSR_KERNEL(residual_shift_float16, __half, 1)
LPNSR_KERNEL(residual_shift_float16_wide, __half, 8)
LPNSR_KERNEL(residual_shift_bfloat16, __nv_bfloat16, 1)
LPNSR_KERNEL(residual_shift_bfloat16_wide, __nv_bfloat16, 8)

// The words of `count` counters, for comparison with the published answers.
extern "C" __global__ void philox4x32_words(const Words* counters, u32 count, u32 key_low,
                                            u32 key_high, Words* words) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) words[i] = philox4x32(counters[i], key_low, key_high);
}
