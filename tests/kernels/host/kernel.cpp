// The CUDA source as a CPU library that runs one GPU thread after the other.
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct Index {
  unsigned x, y, z;
};
static Index blockDim, blockIdx, threadIdx;

#include "residual_shift.cu"

using Kernel = void (*)(float, float, float, float, float, u32, u32, u32, u32, const void*,
                        const void*, const void*, const void*, const void*, const void*,
                        const void*, const void*, void*, void*);

extern "C" void launch(Kernel kernel, u32 x, u32 y, u32 z, u32 threads, const float* factors,
                       const u32* sizes, void* const* tensors) {
  blockDim = {threads, 1, 1};
  for (blockIdx.z = 0; blockIdx.z < z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
          kernel(factors[0], factors[1], factors[2], factors[3], factors[4], sizes[0], sizes[1],
                 sizes[2], sizes[3], tensors[0], tensors[1], tensors[2], tensors[3], tensors[4],
                 tensors[5], tensors[6], tensors[7], tensors[8], tensors[9]);
}
