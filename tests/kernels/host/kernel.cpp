// residual_shift.cu as a CPU library that runs one GPU thread after the other.
#include "threads.h"

#include "residual_shift.cu"

LPNSR_HOST(residual_shift_float32)
LPNSR_HOST(residual_shift_float32_wide)
LPNSR_HOST(residual_shift_float16)
LPNSR_HOST(residual_shift_float16_wide)
LPNSR_HOST(residual_shift_bfloat16)
LPNSR_HOST(residual_shift_bfloat16_wide)
LPNSR_HOST(philox4x32_words)
