// What CUDA sources need to be C++, with threads that run one after the other.
#pragma once

#include <cstddef>
#include <utility>

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

// How ctypes calls the type of a parameter.
template <typename T>
constexpr char code;
template <typename T>
constexpr char code<T*> = 'P';
template <>
constexpr char code<float> = 'f';
template <>
constexpr char code<unsigned> = 'I';

// What a kernel's parameters are.
template <typename... A>
const char* parameters(void (*)(A...)) {
  static const char codes[] = {code<A>..., 0};
  return codes;
}

// Runs a kernel of any parameters, each given by its address as the driver wants it.
template <typename... A, std::size_t... I>
void launch(void (*kernel)(A...), const unsigned* grid, unsigned threads, void** arguments,
            std::index_sequence<I...>) {
  for_each_thread(grid[0], grid[1], grid[2], threads,
                  [&] { kernel(*static_cast<A*>(arguments[I])...); });
}
template <typename... A>
void launch(void (*kernel)(A...), const unsigned* grid, unsigned threads, void** arguments) {
  launch(kernel, grid, threads, arguments, std::index_sequence_for<A...>{});
}

#define LPNSR_HOST(NAME)                                                                   \
  extern "C" const char* parameters_##NAME() { return parameters(NAME); }                  \
  extern "C" void launch_##NAME(const unsigned* grid, unsigned threads, void** arguments) { \
    launch(NAME, grid, threads, arguments);                                                \
  }
