// Vectors of LPNSR_LANES floats. Files that include this are compiled once for each width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#define LPNSR_JOIN(A, B) A##B
#define LPNSR_EXPANDED(A, B) LPNSR_JOIN(A, B)
#define LPNSR_OF_LANES(NAME) LPNSR_EXPANDED(NAME, LPNSR_LANES)

namespace lpnsr {
namespace {

constexpr size_t kLanes = LPNSR_LANES;

template <size_t N>
struct Of {
  typedef float Vector __attribute__((vector_size(N * sizeof(float))));
  typedef float Unaligned __attribute__((vector_size(N * sizeof(float)), aligned(4), may_alias));
  using Lanes = std::make_index_sequence<N>;
};
using Vector = Of<kLanes>::Vector;

template <size_t N = kLanes>
inline typename Of<N>::Vector load(const float* from) {
  return *reinterpret_cast<const typename Of<N>::Unaligned*>(from);
}

template <size_t N = kLanes>
inline void store(float* to, typename Of<N>::Vector value) {
  *reinterpret_cast<typename Of<N>::Unaligned*>(to) = value;
}

// The even (0) or odd (1) ones of the values of two vectors.
template <size_t Odd, typename V, size_t... I>
inline V every_second(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (2 * I + Odd)...);
}

// The values of the first (0) or second (1) halves of two vectors in turn.
template <size_t Half, typename V, size_t... I>
inline V zipped(V a, V b, std::index_sequence<I...>) {
  constexpr size_t n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / 2 + Half * n / 2 + I % 2 * n)...);
}

// The values of `Count` vectors in turn; transposes them if they have as many values.
template <typename V, size_t Count, typename Lanes>
inline void interleave(V (&rows)[Count], Lanes lanes) {
  for (size_t done = 1; done < Count; done *= 2) {
    V mixed[Count];
    for (size_t r = 0; r < Count / 2; ++r) {
      mixed[2 * r] = zipped<0>(rows[r], rows[r + Count / 2], lanes);
      mixed[2 * r + 1] = zipped<1>(rows[r], rows[r + Count / 2], lanes);
    }
    for (size_t r = 0; r < Count; ++r) rows[r] = mixed[r];
  }
}

// A product of matrices, of kRows rows and `Vectors` vectors of columns: so many sums stay in
// registers, of 32 or of 16. A place in `a` is row * a_row + column * a_column; `b` and `c` have
// their rows at distances.
#if defined(__aarch64__) || defined(__AVX512F__)
constexpr size_t kRows = 8, kVectors = 2;
#else
constexpr size_t kRows = 4, kVectors = 3;
#endif

template <size_t Vectors>
inline void multiply(const float* a, size_t a_row, size_t a_column, const float* b, size_t b_row,
                     size_t depth, float* c, size_t c_row) {
  Vector sum[kRows][Vectors] = {};
  for (size_t d = 0; d < depth; ++d) {
    Vector value[Vectors];
    for (size_t j = 0; j < Vectors; ++j) value[j] = load(b + d * b_row + j * kLanes);
    for (size_t r = 0; r < kRows; ++r)
      for (size_t j = 0; j < Vectors; ++j) sum[r][j] += a[r * a_row + d * a_column] * value[j];
  }
  for (size_t r = 0; r < kRows; ++r)
    for (size_t j = 0; j < Vectors; ++j) store(c + r * c_row + j * kLanes, sum[r][j]);
}

// The same of at most kVectors vectors.
inline void multiply(size_t vectors, const float* a, size_t a_row, size_t a_column, const float* b,
                     size_t b_row, size_t depth, float* c, size_t c_row) {
  if (vectors == 1) return multiply<1>(a, a_row, a_column, b, b_row, depth, c, c_row);
  if (vectors == 2) return multiply<2>(a, a_row, a_column, b, b_row, depth, c, c_row);
  multiply<kVectors>(a, a_row, a_column, b, b_row, depth, c, c_row);
}

typedef int32_t Integers __attribute__((vector_size(sizeof(Vector))));

inline Vector clamped(Vector x, float least, float most) {
  x = x < least ? Vector{} + least : x;
  return x > most ? Vector{} + most : x;
}

// 2^n exp(r) with |r| <= log(2) / 2, and exp(r) by the polynomial of Moshier's Cephes.
inline Vector exponential(Vector x) {
  constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: a sum with it has no fraction
  x = clamped(x, -87.0f, 88.0f);
  const Vector shifted = x * 1.44269504f + kRounding, n = shifted - kRounding;
  const Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vector p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return Vector(Integers(p) + (Integers(shifted) << 23));  // n added to the exponent
}

}  // namespace
}  // namespace lpnsr
