// What happens to a picture on the GPU before and after its tiles are computed: see picture.py.
//
// Compiled without fused multiply-adds, cutting, blending and rounding are those of
// lpnsr/runtime/tiles/tiling.py and rows.py to the bit; the colours of color.py are corrected in sums of
// another order.

using u32 = unsigned int;
using u64 = unsigned long long;
using u8 = unsigned char;
using u16 = unsigned short;

namespace {

// Where a tile lies: its first row and column in the small picture.
struct Place {
  u32 row, column;
};

__device__ __forceinline__ u32 mirrored(u32 index, u32 size) {
  const u32 period = size > 1 ? 2 * size - 2 : 1;
  index %= period;
  return index < size ? index : period - index;
}

__device__ __forceinline__ u32 clamped(int index, u32 size) {
  return index < 0 ? 0 : index < static_cast<int>(size) ? index : size - 1;
}

template <typename T>
__device__ __forceinline__ float signed_value(T value, float half) {
  return value / half - 1.0f;
}

__device__ __forceinline__ float within(float value) { return fminf(fmaxf(value, -1.0f), 1.0f); }

template <typename T>
__device__ __forceinline__ T rounded(float value, float half) {
  return static_cast<T>(rintf((within(value) + 1.0f) * half));
}
template <>
__device__ __forceinline__ float rounded(float value, float) {
  return within(value);
}

// One thread has one pixel of a tile in one of its three planes.
template <typename T>
__device__ __forceinline__ void cut(const T* picture, const Place* places, float* tiles, u32 height,
                                    u32 width, u32 rows, u32 columns, float half) {
  const u32 pixel = blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= rows * columns) return;
  const Place place = places[blockIdx.z];
  const u64 row = mirrored(place.row + pixel / columns, height);
  const u64 column = mirrored(place.column + pixel % columns, width);
  const T value = picture[(row * width + column) * 3 + blockIdx.y];
  const u64 plane = u64{blockIdx.z} * 3 + blockIdx.y;
  tiles[plane * rows * columns + pixel] = signed_value(value, half);
}

// Weights of the four taps of a cubic filter (a = -0.75) at `x` past the second.
struct Taps {
  float weight[4];
};

__device__ __forceinline__ Taps cubic(float x) {
  const float a = -0.75f, y = 1.0f - x, z = x + 1.0f;
  Taps taps;
  taps.weight[0] = ((a * z - 5.0f * a) * z + 8.0f * a) * z - 4.0f * a;
  taps.weight[1] = ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
  taps.weight[2] = ((a + 2.0f) * y - (a + 3.0f)) * y * y + 1.0f;
  taps.weight[3] = 1.0f - taps.weight[0] - taps.weight[1] - taps.weight[2];
  return taps;
}

// The small picture enlarged with a cubic filter, at one value of the large one.
template <typename T>
__device__ __forceinline__ float enlarged(const T* picture, u32 height, u32 width, float half,
                                          u32 scale, u32 row, u32 column, u32 channel) {
  const float at_y = (row + 0.5f) / scale - 0.5f, at_x = (column + 0.5f) / scale - 0.5f;
  const int top = static_cast<int>(floorf(at_y)), left = static_cast<int>(floorf(at_x));
  const Taps vertical = cubic(at_y - top), horizontal = cubic(at_x - left);
  float sum = 0.0f;
  for (int i = 0; i < 4; ++i) {
    const u64 source = clamped(top + i - 1, height);
    float line = 0.0f;
    for (int j = 0; j < 4; ++j) {
      const T value = picture[(source * width + clamped(left + j - 1, width)) * 3 + channel];
      line += horizontal.weight[j] * signed_value(value, half);
    }
    sum += vertical.weight[i] * line;
  }
  return sum;
}

// One thread has one value of a row of the sheet.
template <typename T>
__device__ __forceinline__ void difference(const T* picture, const float* sheet, float* out,
                                           u32 height, u32 width, u32 scale, u32 capacity,
                                           u32 first, float half, float limit) {
  const u32 line = 3 * scale * width, at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= line) return;
  const u32 row = first + blockIdx.y;
  const float large = enlarged(picture, height, width, half, scale, row, at / 3, at % 3);
  const float value = large - sheet[u64{row % capacity} * line + at];
  out[u64{blockIdx.y} * line + at] = fminf(fmaxf(value, -limit), limit);
}

template <typename T>
__device__ __forceinline__ void finish(const float* sheet, const float* correction, T* out,
                                       u32 width, u32 capacity, u32 first, float half) {
  const u32 line = 3 * width, at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= line) return;
  const u64 offset = u64{blockIdx.y} * line + at;
  const float value = sheet[u64{(first + blockIdx.y) % capacity} * line + at];
  out[offset] = rounded<T>(correction ? value + correction[offset] : value, half);
}

}  // namespace

#define LPNSR_PICTURE(NAME, T)                                                                    \
  extern "C" __global__ void picture_cut_##NAME(const T* picture, const Place* places,            \
                                                float* tiles, u32 height, u32 width, u32 rows,    \
                                                u32 columns, float half) {                        \
    cut(picture, places, tiles, height, width, rows, columns, half);                              \
  }                                                                                               \
  extern "C" __global__ void picture_difference_##NAME(                                           \
      const T* picture, const float* sheet, float* out, u32 height, u32 width, u32 scale,         \
      u32 capacity, u32 first, float half, float limit) {                                         \
    difference(picture, sheet, out, height, width, scale, capacity, first, half, limit);          \
  }

#define LPNSR_FINISH(NAME, T)                                                                     \
  extern "C" __global__ void picture_finish_##NAME(const float* sheet, const float* correction,   \
                                                   T* out, u32 width, u32 capacity, u32 first,    \
                                                   float half) {                                  \
    finish(sheet, correction, out, width, capacity, first, half);                                 \
  }

LPNSR_PICTURE(uint8, u8)
LPNSR_PICTURE(uint16, u16)
LPNSR_FINISH(uint8, u8)
LPNSR_FINISH(uint16, u16)
LPNSR_FINISH(float32, float)

// Rows of the sheet, a ring of `capacity` rows, become zero.
extern "C" __global__ void picture_clear(float* sheet, u32 width, u32 capacity, u32 first) {
  const u32 line = 3 * width, at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at < line) sheet[u64{(first + blockIdx.y) % capacity} * line + at] = 0.0f;
}

// A tile's share is added to the sheet. `bad` becomes the least number of a tile with a value that
// is not finite.
extern "C" __global__ void picture_blend(const float* tile, const float* row_weights,
                                         const float* column_weights, float* sheet, u32* bad,
                                         u32 columns, u32 number, u32 top, u32 left, u32 height,
                                         u32 width, u32 capacity) {
  const u32 column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (column >= columns) return;
  const bool is_inside = top + row < height && left + column < width;
  const float weight = row_weights[row] * column_weights[column];
  float* target = sheet + (u64{(top + row) % capacity} * width + left + column) * 3;
  for (u32 channel = 0; channel < 3; ++channel) {
    const float value = tile[(u64{channel} * gridDim.y + row) * columns + column];
    if (!isfinite(value)) atomicMin(bad, number);
    if (is_inside) target[channel] += weight * value;
  }
}

// Neighbours `distance` pixels apart are averaged with weights 1 2 1 along both axes. Rows beyond
// the first and the last are equal to these.
extern "C" __global__ void picture_blur(const float* in, float* out, u32 width, u32 distance) {
  const u32 line = 3 * width, at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= line) return;
  const int row = blockIdx.y, column = at / 3, reach = distance;
  float sum = 0.0f;
  for (int i = -1; i <= 1; ++i) {
    const u64 source = clamped(row + i * reach, gridDim.y);
    const float* values = in + source * line + at % 3;
    const float left = values[3 * clamped(column - reach, width)];
    const float right = values[3 * clamped(column + reach, width)];
    const float across = 0.25f * left + 0.5f * values[3 * column] + 0.25f * right;
    sum += (i ? 0.25f : 0.5f) * across;
  }
  out[blockIdx.y * u64{line} + at] = sum;
}
