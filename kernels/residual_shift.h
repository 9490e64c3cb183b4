// The arithmetic of one reverse step and of its noise, for C++17, nvcc and NVRTC.
//
// reference.py says the same in NumPy and is what both faces are tested against. Sums and products
// are in float32, in the order in which they are written. The polynomials are minimax fits.
#pragma once

#ifndef __CUDACC_RTC__
#include <cmath>
#include <cstring>
#endif

#if defined(__CUDACC__)
#define LPNSR_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define LPNSR_INLINE __forceinline
#else
#define LPNSR_INLINE inline __attribute__((always_inline))
#endif

namespace lpnsr {

// NVRTC has no <cstdint>.
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
static_assert(sizeof(u32) == 4 && sizeof(i32) == 4 && sizeof(u64) == 8, "unusual integers");

// Factors of one step; see Step in recurrence.py.
struct Step {
  float state, prediction, start, noise, next_scale;
};

// Where a batch item lies in its picture's noise.
struct Origin {
  u32 row, column, seed_low, seed_high;
};

// One value of every tensor; these defaults stand for tensors that are left out.
struct Terms {
  float x = 0.0f, x0 = 0.0f, y = 0.0f, mean = 0.0f, logvar = 0.0f, weight = 1.0f, eps = 0.0f;
};

struct Words {
  u32 a, b, c, d;
};

struct Pair {
  float first, second;
};

LPNSR_INLINE float float_from(u32 bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

LPNSR_INLINE u32 bits_of(float value) {
  u32 bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Philox4x32-10, Salmon et al. (2011).
LPNSR_INLINE Words philox4x32(Words counter, u32 key_low, u32 key_high) {
  for (int round = 0; round < 10; ++round) {
    const u64 p = u64{0xD2511F53} * counter.a, q = u64{0xCD9E8D57} * counter.c;
    counter = {u32(q >> 32) ^ counter.b ^ key_low, u32(q), u32(p >> 32) ^ counter.d ^ key_high,
               u32(p)};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// ln((word + 1/2) / 2^32), accurate to a few units in the last place also where it is nearly 0.
LPNSR_INLINE float log_uniform(u32 word) {
  // Beyond 1/2, 1 - u is what float32 holds precisely.
  const bool upper = i32(word) < 0;
  const i32 folded = i32(upper ? ~word : word);
  const float t = (float(folded) + 0.5f) * 0x1p-32f;
  // u = 2^exponent * (1 + f), where 1 + f lies between sqrt(1/2) and sqrt(2).
  const u32 bits = bits_of(upper ? 1.0f - t : t), root = 0x3F3504F3;
  const i32 exponent = i32(bits - root) >> 23;
  const float mantissa = float_from(bits - (u32(exponent) << 23));
  const float f = upper && exponent == 0 ? -t : mantissa - 1.0f;
  float p = -0.07634497f;
  p = p * f + 0.12761576f;
  p = p * f - 0.13160183f;
  p = p * f + 0.14201757f;
  p = p * f - 0.16623357f;
  p = p * f + 0.20001227f;
  p = p * f - 0.2500082f;
  p = p * f + 0.3333333f;
  // ln 2 in two parts, of which the first is short enough for an exact product.
  const float e = float(exponent), square = f * f;
  const float small = square * f * p + e * -2.12194440e-4f - 0.5f * square;
  return (small + f) + e * 0.693359375f;
}

// cos and sin of 2 pi (word + 1/2) / 2^32.
LPNSR_INLINE Pair cos_sin_turn(u32 word) {
  // The nearest quarter turn, and what remains, within an eighth of a turn. float32 does not hold
  // all of its bits, so it is t + fine.
  const u32 quarter = (word + (1u << 29)) >> 30;
  const i32 rest = i32(word - (quarter << 30));
  const float unit = 1.4629181e-09f, unit_error = -4.0709403e-17f;  // 2 pi / 2^32
  const float coarse = float(rest & ~0x7F);
  const float t = coarse * unit;
  const float fine = (float(rest & 0x7F) + 0.5f) * unit + coarse * unit_error;
  const float square = t * t, half = 0.5f * square;
  float s = -0.00019515284f;
  s = s * square + 0.00833216f;
  s = s * square - 0.16666655f;
  s = (s * square * t + (fine - half * fine)) + t;
  float c = 2.4438452e-05f;
  c = c * square - 0.0013887368f;
  c = c * square + 0.041666646f;
  c = ((c * square * square - s * fine) - half) + 1.0f;
  const bool odd = quarter & 1;
  const u32 cos_sign = (quarter + 1) << 30 & 0x80000000, sin_sign = quarter << 30 & 0x80000000;
  return {float_from(bits_of(odd ? s : c) ^ cos_sign), float_from(bits_of(odd ? c : s) ^ sin_sign)};
}

// Two standard normal values, Box and Muller (1958).
LPNSR_INLINE Pair normals(u32 radius_word, u32 angle_word) {
  const float radius = sqrtf(-2.0f * log_uniform(radius_word));
  const Pair turn = cos_sin_turn(angle_word);
  return {radius * turn.first, radius * turn.second};
}

// The noise of four channels at one place: values 0 to 3 are channels 4*quad to 4*quad + 3.
struct Quad {
  float value[4];
};

LPNSR_INLINE Quad noise(const Origin& origin, u32 draw, u32 quad, u32 row, u32 column) {
  const Words words = philox4x32({origin.column + column, origin.row + row, quad, draw},
                                 origin.seed_low, origin.seed_high);
  const Pair low = normals(words.a, words.b), high = normals(words.c, words.d);
  return {{low.first, low.second, high.first, high.second}};
}

// exp, for arguments that are limited to -87 ... 88 so that it is normal and finite.
LPNSR_INLINE float exp_limited(float value) {
  value = value < -87.0f ? -87.0f : value;  // NaN passes both comparisons
  value = value > 88.0f ? 88.0f : value;
  // Adding and subtracting 1.5 * 2^23 rounds to an integer, which the sum's low bits hold.
  const float shifted = value * 1.44269504f + 12582912.0f;
  const float k = shifted - 12582912.0f;
  const float r = value - k * 0.693359375f - k * -2.12194440e-4f;
  float p = 0.0013814613f;
  p = p * r + 0.00836871f;
  p = p * r + 0.04166839f;
  p = p * r + 0.16666521f;
  p = p * r + 0.49999994f;
  p = p * r * r + r + 1.0f;
  return p * float_from((bits_of(shifted) << 23) + 0x3F800000);
}

// x_{t-1} from x_t.
LPNSR_INLINE float residual_shift(const Step& step, const Terms& terms) {
  return step.state * terms.x + step.prediction * terms.x0 + step.start * terms.y +
         step.noise * terms.weight * (terms.mean + exp_limited(0.5f * terms.logvar) * terms.eps);
}

}  // namespace lpnsr
