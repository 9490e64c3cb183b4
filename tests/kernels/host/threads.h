// What CUDA sources need to be C++, with threads that run one after the other.
#pragma once

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct Index {
  unsigned x, y, z;
};
static thread_local Index blockDim, blockIdx, gridDim, threadIdx;

template <typename F>
void for_each_thread(unsigned x, unsigned y, unsigned z, unsigned threads, F body) {
  blockDim = {threads, 1, 1};
  gridDim = {x, y, z};
  for (blockIdx.z = 0; blockIdx.z < z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) body();
}
