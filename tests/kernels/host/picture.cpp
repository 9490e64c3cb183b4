// picture.cu as a CPU library that runs one GPU thread after the other.
#include <cmath>

#include "threads.h"

using std::isfinite;
inline void atomicMin(unsigned* least, unsigned value) {
  if (value < *least) *least = value;
}

#include "picture.cu"

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
