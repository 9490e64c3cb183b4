// Chooses among what was compiled for several widths of vectors.
#pragma once

#include <cstddef>

namespace lpnsr {

template <typename Kernel>
struct Compiled {
  size_t lanes;
  const Kernel* kernel;
};

#if defined(__x86_64__) || defined(_M_X64)
#define LPNSR_COMPILED(NAME) {{16, &NAME##16}, {8, &NAME##8}, {4, &NAME##4}}
#else
#define LPNSR_COMPILED(NAME) {{4, &NAME##4}}
#endif

inline bool has_lanes([[maybe_unused]] size_t lanes) {
#if defined(__x86_64__) || defined(_M_X64)
  if (lanes == 16) return __builtin_cpu_supports("avx512f");
  if (lanes == 8) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

// For the widest vectors that this processor has, or those of so many floats; null if it has not.
template <typename Kernel, size_t N>
const Kernel* kernel_for(size_t lanes, const Compiled<Kernel> (&compiled)[N]) {
  for (const Compiled<Kernel>& each : compiled)
    if ((!lanes || each.lanes == lanes) && has_lanes(each.lanes)) return each.kernel;
  return nullptr;
}

}  // namespace lpnsr
