// F(4x4, 3x3) with vectors of LPNSR_LANES floats; see winograd.h.
//
// A vector holds the same value of as many tiles. A panel is a row of tiles that a matrix product
// takes at once. For the tiles of a part, with xi the 36 places in a transformed tile:
//   values[panel][xi][in channel][tile] from the picture,
//   products[panel][xi][out channel][tile] = packed[xi] * values[panel][xi],
//   and from these the picture that results, a group of channels at a time.
// Each sum is made in the same order, whatever part it is in: how work is divided changes no bit.
#include "winograd.h"

#include <algorithm>
#include <memory>

#include "lanes.h"

namespace lpnsr {
namespace {

constexpr size_t kPanel = kLanes * kVectors;
constexpr size_t kGroup = 64;      // rows of products, which stay in the L2 cache
constexpr size_t kPlaces = 6 * 6;  // in a transformed tile
constexpr size_t kPad = 16;        // neighbouring matrices should not fall into the same cache sets
constexpr size_t kRow = kPanel + 16;  // of a panel's tiles at one place, and what is written beyond
constexpr size_t kTiles = 8 * 8 * kRow;  // of a panel, before a transformation or behind it

// The points of interpolation are 0, +-kA, +-kB and infinity: kA * kB = 1 keeps errors small.
constexpr float kA = 0.707106781f, kB = 1.414213562f;

inline void transform_input(const Vector (&d)[6], Vector (&v)[6]) {
  Vector even = d[4] - 2.0f * d[2], odd = kA * d[3] - kB * d[1];
  v[1] = even + odd;
  v[2] = even - odd;
  even = d[4] - 0.5f * d[2];
  odd = kB * d[3] - kA * d[1];
  v[3] = even + odd;
  v[4] = even - odd;
  v[0] = d[0] - 2.5f * d[2] + d[4];
  v[5] = d[1] - 2.5f * d[3] + d[5];
}

inline void transform_output(const Vector (&m)[6], Vector (&y)[4]) {
  const Vector sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const Vector sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = kA * difference_a + kB * difference_b;
  y[2] = 0.5f * sum_a + 2.0f * sum_b;
  y[3] = 0.5f * kA * difference_a + 2.0f * kB * difference_b + m[5];
}

// A row for each point p has 1, p, p^2, divided by the product of its distances to other points.
template <typename V>
inline void transform_weights(V a, V b, V c, V (&w)[6]) {
  V even = (a + 0.5f * c) * (-2.0f / 3.0f), odd = b * (-2.0f / 3.0f * kA);
  w[1] = even + odd;
  w[2] = even - odd;
  even = (a + 2.0f * c) * (1.0f / 6.0f);
  odd = b * (1.0f / 6.0f * kB);
  w[3] = even + odd;
  w[4] = even - odd;
  w[0] = a;
  w[5] = c;
}

size_t tiles_across(const Layer& layer) { return (layer.width + 3) / 4; }
size_t panels(const Part& part) { return (part.tiles + kPanel - 1) / kPanel; }
size_t matrix(size_t channels) { return channels * kPanel + kPad; }

// Output channels that make up kGroup rows, with all phases.
size_t group_channels(const Layer& layer) { return kGroup / layer.phases(); }
size_t groups(const Layer& l) { return (l.out_channels + group_channels(l) - 1) / group_channels(l); }
size_t weight_matrix(const Layer& l, size_t groups) { return groups * kGroup * l.in_channels + kPad; }

size_t packed_size(const Layer& layer) {
  return layer.is_large() ? 0 : kPlaces * weight_matrix(layer, groups(layer));
}

// Whether a phase has products at this place. The point 0 sees only the first row (or column) of a
// kernel, infinity only the last one; a phase has no first one or no last one.
bool has_products(const Layer& layer, size_t phase, size_t xi) {
  if (layer.scale == 1) return true;
  const size_t row_without = phase / 2 ? 0 : 5, column_without = phase % 2 ? 0 : 5;
  return xi / 6 != row_without && xi % 6 != column_without;
}

// The weights of kRows output channels from the `k`th on, as [in][taps][taps][kRows]. Behind the
// last channel it is repeated, for results that nothing reads.
void gather_rows(const Layer& layer, size_t phase, size_t k, float* to) {
  using Rows = Of<kRows>::Vector;
  constexpr Of<kRows>::Lanes lanes;
  const size_t count = layer.taps() * layer.taps() * layer.in_channels;
  const float* from[kRows];
  for (size_t r = 0; r < kRows; ++r)
    from[r] = layer.weights[phase] + std::min(k + r, layer.out_channels - 1) * count;
  size_t i = 0;
  for (; i + kRows <= count; i += kRows) {
    Rows square[kRows];
    for (size_t r = 0; r < kRows; ++r) square[r] = load<kRows>(from[r] + i);
    interleave(square, lanes);
    for (size_t r = 0; r < kRows; ++r) store<kRows>(to + (i + r) * kRows, square[r]);
  }
  for (; i < count; ++i)
    for (size_t r = 0; r < kRows; ++r) to[i * kRows + r] = from[r][i];
}

// These to [xi][in][kRows], `stride` floats between places.
template <size_t Taps>
void transform_rows(const float* rows, size_t phase, size_t depth, float* to, size_t stride) {
  using Rows = Of<kRows>::Vector;
  const size_t down = Taps == 3 ? 0 : phase / 2, across = Taps == 3 ? 0 : phase % 2;
  for (size_t c = 0; c < depth; ++c, rows += Taps * Taps * kRows, to += kRows) {
    Rows kernel[3][3] = {}, half[6][3], result[6];
    for (size_t i = 0; i < Taps; ++i)
      for (size_t j = 0; j < Taps; ++j)
        kernel[i + down][j + across] = load<kRows>(rows + (i * Taps + j) * kRows);
    for (size_t j = 0; j < 3; ++j) {
      transform_weights(kernel[0][j], kernel[1][j], kernel[2][j], result);
      for (size_t i = 0; i < 6; ++i) half[i][j] = result[i];
    }
    for (size_t i = 0; i < 6; ++i) {
      transform_weights(half[i][0], half[i][1], half[i][2], result);
      for (size_t j = 0; j < 6; ++j) store<kRows>(to + (i * 6 + j) * stride, result[j]);
    }
  }
}

// Output channels as [xi][phase][out / kRows][in][kRows]; `rows` is work memory.
void transform_channels(const Layer& layer, size_t first, size_t count, float* rows, float* to,
                        size_t stride) {
  const auto transform = layer.scale == 1 ? transform_rows<3> : transform_rows<2>;
  for (size_t phase = 0; phase < layer.phases(); ++phase)
    for (size_t k = 0; k < count; k += kRows) {
      gather_rows(layer, phase, first + k, rows);
      const size_t row = phase * group_channels(layer) + k;
      transform(rows, phase, layer.in_channels, to + row * layer.in_channels, stride);
    }
}

void pack(const Layer& layer, float* packed) {
  const auto rows = std::make_unique<float[]>(9 * layer.in_channels * kRows);
  const size_t step = group_channels(layer);
  for (size_t first = 0; first < layer.out_channels; first += step)
    transform_channels(layer, first, std::min(step, layer.out_channels - first), rows.get(),
                       packed + first * layer.phases() * layer.in_channels,
                       weight_matrix(layer, groups(layer)));
}

// Six columns of neighbouring tiles, for one of their rows: groups of four values are the inner
// columns; the outer ones are inner ones of the neighbours. Also writes the first column of the tile
// behind the last one, and the last column of the one before the first. Returns how many tiles
// vectors of N have taken.
template <size_t N>
inline size_t split_vectors(const float* row, size_t t, size_t count, float* to) {
  constexpr typename Of<N>::Lanes lanes;
  for (; t + N <= count; t += N) {
    const float* p = row + 4 * t;
    const auto a = load<N>(p), b = load<N>(p + N), c = load<N>(p + 2 * N), d = load<N>(p + 3 * N);
    const auto even_ab = every_second<0>(a, b, lanes), odd_ab = every_second<1>(a, b, lanes);
    const auto even_cd = every_second<0>(c, d, lanes), odd_cd = every_second<1>(c, d, lanes);
    const auto first = every_second<0>(even_ab, even_cd, lanes);
    const auto last = every_second<1>(odd_ab, odd_cd, lanes);
    store<N>(to + t + 1, last);
    store<N>(to + kRow + t, first);
    store<N>(to + 2 * kRow + t, every_second<0>(odd_ab, odd_cd, lanes));
    store<N>(to + 3 * kRow + t, every_second<1>(even_ab, even_cd, lanes));
    store<N>(to + 4 * kRow + t, last);
    store<N>(to + 5 * kRow + t - 1, first);
  }
  return t;
}

inline void read_row(const float* row, size_t width, size_t across, size_t count, float* to) {
  const size_t x = 4 * across, whole = std::min(count, (width - x) / 4);
  const float before = to[5 * kRow - 1];
  size_t t = split_vectors<kLanes>(row + x, 0, whole, to);
  t = split_vectors<4>(row + x, t, whole, to);
  for (; t < count; ++t) {
    for (size_t j = 0; j < 4; ++j) {
      const size_t column = x + 4 * t + j;
      to[(1 + j) * kRow + t] = column < width ? row[column] : 0.0f;
    }
    to[t + 1] = to[4 * kRow + t];
    to[5 * kRow + t - 1] = to[kRow + t];
  }
  to[5 * kRow - 1] = before;
  to[0] = x ? row[x - 1] : 0.0f;
  to[5 * kRow + count - 1] = x + 4 * count < width ? row[x + 4 * count] : 0.0f;
}

// Groups of `Columns` values to a row of the picture, from the same place in each group.
template <size_t N, size_t Columns>
inline size_t join_vectors(const float* from, size_t t, size_t count, float* row) {
  constexpr typename Of<N>::Lanes lanes;
  for (; t + N <= count; t += N) {
    typename Of<N>::Vector values[Columns];
    for (size_t j = 0; j < Columns; ++j) values[j] = load<N>(from + j * kRow + t);
    interleave(values, lanes);
    for (size_t j = 0; j < Columns; ++j) store<N>(row + Columns * t + j * N, values[j]);
  }
  return t;
}

// Calls `visit(tile in the panel, row of tiles, column of tiles, count)` for tiles in one row.
template <typename Visit>
inline void each_run(const Layer& layer, size_t first, size_t count, const Visit& visit) {
  const size_t across = tiles_across(layer);
  for (size_t done = 0; done < count;) {
    const size_t column = (first + done) % across;
    const size_t run = std::min(across - column, count - done);
    visit(done, (first + done) / across, column, run);
    done += run;
  }
}

// Tiles of one channel as [6][6][kRow].
void read_tiles(const Layer& layer, const float* plane, size_t first, size_t count, float* tiles) {
  each_run(layer, first, count, [&](size_t at, size_t down, size_t across, size_t run) {
    for (size_t i = 0; i < 6; ++i) {
      const size_t y = 4 * down + i - 1;  // wraps around above the picture
      float* to = tiles + i * 6 * kRow + at;
      if (y < layer.height) {
        read_row(plane + y * layer.width, layer.width, across, run, to);
      } else {
        for (size_t j = 0; j < 6; ++j) std::fill_n(to + j * kRow, run, 0.0f);
      }
    }
  });
}

void transform_tiles(const float* tiles, size_t vectors, float* to, size_t stride) {
  for (size_t v = 0; v < vectors * kLanes; v += kLanes) {
    Vector half[6][6], from[6], result[6];
    for (size_t j = 0; j < 6; ++j) {
      for (size_t i = 0; i < 6; ++i) from[i] = load(tiles + (i * 6 + j) * kRow + v);
      transform_input(from, result);
      for (size_t i = 0; i < 6; ++i) half[i][j] = result[i];
    }
    for (size_t i = 0; i < 6; ++i) {
      transform_input(half[i], result);
      for (size_t j = 0; j < 6; ++j) store(to + (i * 6 + j) * stride + v, result[j]);
    }
  }
}

// Results of one channel as [rows][columns][kRow], without residual and slope; of every second row
// and column if there are phases.
void transform_products(const float* m, size_t stride, size_t vectors, float bias, size_t scale,
                        float* tiles) {
  for (size_t v = 0; v < vectors * kLanes; v += kLanes) {
    Vector half[4][6], from[6], result[4];
    for (size_t j = 0; j < 6; ++j) {
      for (size_t i = 0; i < 6; ++i) from[i] = load(m + (i * 6 + j) * stride + v);
      transform_output(from, result);
      for (size_t i = 0; i < 4; ++i) half[i][j] = result[i];
    }
    for (size_t i = 0; i < 4; ++i) {
      transform_output(half[i], result);
      for (size_t j = 0; j < 4; ++j)
        store(tiles + (i * 4 * scale + j) * scale * kRow + v, result[j] + bias);
    }
  }
}

inline Vector sloped(Vector value, float slope) { return value < 0.0f ? value * slope : value; }

// Adds the residual, if any, to a row, and multiplies negative values by the slope.
inline void finish(float* row, const float* residual, size_t count, float slope) {
  size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    const Vector value = load(row + j);
    store(row + j, sloped(residual ? value + load(residual + j) : value, slope));
  }
  for (; j < count; ++j) {
    const float value = residual ? row[j] + residual[j] : row[j];
    row[j] = value < 0.0f ? value * slope : value;
  }
}

template <size_t Scale>
void write_tiles(const Layer& layer, const float* tiles, size_t first, size_t count,
                 const float* residual, float* plane) {
  constexpr size_t kSide = 4 * Scale;
  const size_t height = layer.height * Scale, width = layer.width * Scale;
  each_run(layer, first, count, [&](size_t at, size_t down, size_t across, size_t run) {
    const size_t x = kSide * across, whole = std::min(run, (width - x) / kSide);
    const size_t end = std::min(width, x + kSide * run);
    for (size_t i = 0; i < kSide && kSide * down + i < height; ++i) {
      const float* from = tiles + i * kSide * kRow + at;
      const size_t offset = (kSide * down + i) * width;
      float* row = plane + offset;
      size_t t = join_vectors<kLanes, kSide>(from, 0, whole, row + x);
      t = join_vectors<4, kSide>(from, t, whole, row + x);
      for (size_t j = x + kSide * t; j < end; ++j)
        row[j] = from[j % kSide * kRow + (j - x) / kSide];
      if (residual || layer.slope != 1.0f)
        finish(row + x, residual ? residual + offset + x : nullptr, end - x, layer.slope);
    }
  });
}

// Work memory, and where its parts begin.
struct Scratch {
  size_t values, products, rows, weights, size;

  Scratch(const Layer& layer, const Part& part)
      : values(kTiles),
        products(values + panels(part) * kPlaces * matrix(layer.in_channels)),
        rows(products + panels(part) * kPlaces * matrix(kGroup)),
        weights(rows + (layer.is_large() ? 9 * layer.in_channels * kRows : 0)),
        size(weights + (layer.is_large() ? kPlaces * weight_matrix(layer, 1) : 0)) {}
};

size_t scratch_size(const Layer& layer, const Part& part) { return Scratch(layer, part).size; }

void run(const Layer& layer, const Part& part, const float* x, const float* residual, float* y,
         float* scratch) {
  const size_t depth = layer.in_channels, plane = layer.height * layer.width;
  const size_t value_size = kPlaces * matrix(depth), product_size = kPlaces * matrix(kGroup);
  const Scratch place(layer, part);
  float *tiles = scratch, *values = scratch + place.values, *products = scratch + place.products;
  const auto count = [&](size_t panel) { return std::min(kPanel, part.tiles - panel * kPanel); };
  const auto vectors = [&](size_t panel) { return (count(panel) + kLanes - 1) / kLanes; };
  std::fill_n(tiles, kPlaces * kRow, 0.0f);  // also lanes that hold no tile
  for (size_t p = 0; p < panels(part); ++p)
    for (size_t c = 0; c < depth; ++c) {
      read_tiles(layer, x + c * plane, part.first_tile + p * kPanel, count(p), tiles);
      transform_tiles(tiles, vectors(p), values + p * value_size + c * kPanel, matrix(depth));
    }
  const size_t step = group_channels(layer), end = part.first_channel + part.channels;
  // Rows of the products of one phase, at one place.
  const auto rows = [&](size_t panel, size_t phase, size_t xi) {
    return products + panel * product_size + xi * matrix(kGroup) + phase * step * kPanel;
  };
  for (size_t p = 0; p < panels(part); ++p)
    for (size_t phase = 0; phase < layer.phases(); ++phase)
      for (size_t xi = 0; xi < kPlaces; ++xi)
        if (!has_products(layer, phase, xi)) std::fill_n(rows(p, phase, xi), step * kPanel, 0.0f);
  for (size_t group = part.first_channel; group < end; group += step) {
    const size_t channels = std::min(step, end - group);
    const float* weights = layer.packed + group * layer.phases() * depth;
    size_t stride = weight_matrix(layer, groups(layer));
    if (layer.is_large()) {
      stride = weight_matrix(layer, 1);
      transform_channels(layer, group, channels, scratch + place.rows, scratch + place.weights,
                         stride);
      weights = scratch + place.weights;
    }
    for (size_t xi = 0; xi < kPlaces; ++xi)
      for (size_t phase = 0; phase < layer.phases(); ++phase) {
        if (!has_products(layer, phase, xi)) continue;
        for (size_t k = 0; k < channels; k += kRows)
          for (size_t p = 0; p < panels(part); ++p)
            multiply(vectors(p), weights + xi * stride + (phase * step + k) * depth, 1, kRows,
                     values + p * value_size + xi * matrix(depth), kPanel, depth,
                     rows(p, phase, xi) + k * kPanel, kPanel);
      }
    for (size_t p = 0; p < panels(part); ++p)
      for (size_t k = 0; k < channels; ++k) {
        for (size_t phase = 0; phase < layer.phases(); ++phase) {
          const size_t corner = phase / 2 * 4 * layer.scale + phase % 2;
          transform_products(rows(p, phase, 0) + k * kPanel, matrix(kGroup), vectors(p),
                             layer.bias[group + k], layer.scale, tiles + corner * kRow);
        }
        const size_t offset = (group + k) * layer.out_plane();
        const auto write = layer.scale == 1 ? write_tiles<1> : write_tiles<2>;
        write(layer, tiles, part.first_tile + p * kPanel, count(p),
              residual ? residual + offset : nullptr, y + offset);
      }
  }
}

}  // namespace

const Kernel LPNSR_OF_LANES(kLanes) = {kPanel, kGroup / 4, packed_size, pack, scratch_size, run};

}  // namespace lpnsr
