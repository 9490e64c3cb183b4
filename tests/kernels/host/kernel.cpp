// residual_shift.cu as a CPU library that runs one GPU thread after the other.
#include "threads.h"

#include "residual_shift.cu"

using Kernel = void (*)(float, float, float, float, float, u32, u32, u32, u32, const void*,
                        const void*, const void*, const void*, const void*, const void*,
                        const void*, const void*, void*, void*);

extern "C" void launch(Kernel kernel, u32 x, u32 y, u32 z, u32 threads, const float* factors,
                       const u32* sizes, void* const* tensors) {
  for_each_thread(x, y, z, threads, [&] {
    kernel(factors[0], factors[1], factors[2], factors[3], factors[4], sizes[0], sizes[1],
           sizes[2], sizes[3], tensors[0], tensors[1], tensors[2], tensors[3], tensors[4],
           tensors[5], tensors[6], tensors[7], tensors[8], tensors[9]);
  });
}
