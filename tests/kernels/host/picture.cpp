// picture.cu as a CPU library that runs one GPU thread after the other.
#include <cmath>
#include <utility>

#include "threads.h"

using std::isfinite;
inline void atomicMin(unsigned* least, unsigned value) {
  if (value < *least) *least = value;
}

#include "picture.cu"

// Runs a kernel of any arguments, each given by its address as the driver wants it.
template <typename... A, std::size_t... I>
void run(void (*kernel)(A...), const u32* grid, u32 threads, void** arguments,
         std::index_sequence<I...>) {
  for_each_thread(grid[0], grid[1], grid[2], threads,
                  [&] { kernel(*static_cast<A*>(arguments[I])...); });
}

#define LPNSR_HOST(NAME)                                                            \
  extern "C" void launch_##NAME(const u32* grid, u32 threads, void** arguments) {   \
    launch(NAME, grid, threads, arguments);                                         \
  }

template <typename... A>
void launch(void (*kernel)(A...), const u32* grid, u32 threads, void** arguments) {
  run(kernel, grid, threads, arguments, std::index_sequence_for<A...>{});
}

LPNSR_HOST(picture_cut_uint8)
LPNSR_HOST(picture_cut_uint16)
LPNSR_HOST(picture_difference_uint8)
LPNSR_HOST(picture_difference_uint16)
LPNSR_HOST(picture_finish_uint8)
LPNSR_HOST(picture_finish_uint16)
LPNSR_HOST(picture_finish_float32)
LPNSR_HOST(picture_clear)
LPNSR_HOST(picture_blend)
LPNSR_HOST(picture_blur)
