// Attention inside windows with vectors of LPNSR_LANES floats; see attention.h.
#include "attention.h"

#include <algorithm>
#include <limits>

#include "lanes.h"

namespace lpnsr {
namespace {

size_t padded(size_t width) { return (width + kLanes - 1) / kLanes * kLanes; }

// Values of a token, each times a factor.
inline void copy_token(const float* from, size_t width, float factor, float* to) {
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(to + i, load(from + i) * factor);
  for (; i + 4 <= width; i += 4) store<4>(to + i, load<4>(from + i) * factor);
  for (; i < width; ++i) to[i] = from[i] * factor;
}

// Values of all tokens as (area, padded width), with zeros behind them.
void gather(const Head& head, const float* from, float factor, float* to) {
  for (size_t token = 0; token < head.area; ++token, to += padded(head.width)) {
    store(to + padded(head.width) - kLanes, Vector{});
    copy_token(from + token * head.stride, head.width, factor, to);
  }
}

// (area, columns) to (columns, area).
void transpose(const float* from, size_t area, size_t columns, float* to) {
  constexpr Of<kLanes>::Lanes lanes;
  for (size_t token = 0; token < area; token += kLanes)
    for (size_t column = 0; column < columns; column += kLanes) {
      Vector square[kLanes];
      for (size_t i = 0; i < kLanes; ++i) square[i] = load(from + (token + i) * columns + column);
      interleave(square, lanes);
      for (size_t i = 0; i < kLanes; ++i) store(to + (column + i) * area + token, square[i]);
    }
}

// kRows rows of a matrix product with so many columns.
void multiply_rows(const float* a, size_t a_row, const float* b, size_t columns, size_t depth,
                   float* c) {
  for (size_t column = 0; column < columns; column += kVectors * kLanes)
    multiply(std::min(kVectors, (columns - column) / kLanes), a, a_row, 1, b + column, columns,
             depth, c + column, columns);
}

template <size_t Half, typename V, size_t... I>
inline V swapped(V value, std::index_sequence<I...>) {
  return __builtin_shufflevector(value, value, (I ^ Half)...);
}

// All lanes combined, in each of them.
template <size_t Half = kLanes / 2, typename Combine>
inline Vector across(Vector value, const Combine& combine) {
  value = combine(value, swapped<Half>(value, Of<kLanes>::Lanes{}));
  if constexpr (Half > 1) return across<Half / 2>(value, combine);
  return value;
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Scores to weights, but for a factor, which is returned.
float soften(float* scores, const float* bias, const float* mask, size_t area) {
  Vector most = Vector{} - std::numeric_limits<float>::infinity(), sum = {};
  for (size_t j = 0; j < area; j += kLanes) {
    Vector score = load(scores + j) + load(bias + j);
    if (mask) score += load(mask + j);
    store(scores + j, score);
    most = larger(score, most);
  }
  most = across(most, larger);
  for (size_t j = 0; j < area; j += kLanes) {
    const Vector weight = exponential(load(scores + j) - most);
    store(scores + j, weight);
    sum += weight;
  }
  return 1.0f / across(sum, [](Vector a, Vector b) { return a + b; })[0];
}

size_t scratch_size(const Head& head) {
  return (4 * head.area + kRows) * padded(head.width) + kRows * head.area;
}

void run(const Head& head, float* out, float* scratch) {
  const size_t area = head.area, width = padded(head.width), size = area * width;
  float *query = scratch, *key = query + size, *value = key + size, *columns = value + size;
  float *mixed = columns + size, *scores = mixed + kRows * width;
  gather(head, head.query, head.scale, query);
  gather(head, head.key, 1.0f, key);
  gather(head, head.value, 1.0f, value);
  transpose(key, area, width, columns);
  for (size_t first = 0; first < area; first += kRows) {
    multiply_rows(query + first * width, width, columns, area, head.width, scores);
    float factors[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      const size_t row = (first + r) * area;
      const float* mask = head.mask ? head.mask + row : nullptr;
      factors[r] = soften(scores + r * area, head.bias + row, mask, area);
    }
    multiply_rows(scores, area, value, width, area, mixed);
    for (size_t r = 0; r < kRows; ++r)
      copy_token(mixed + r * width, head.width, factors[r], out + (first + r) * head.out_stride);
  }
}

}  // namespace

const AttentionKernel LPNSR_OF_LANES(kAttention) = {scratch_size, run};

}  // namespace lpnsr
