// Group normalisation with vectors of LPNSR_LANES floats; see group_norm.h.
#include "group_norm.h"

#include <algorithm>
#include <cmath>

#include "lanes.h"

namespace lpnsr {
namespace {

constexpr size_t kChunk = 4096;  // values, which stay in the L1 cache between two sums

// Each sum is made in one order, on every thread.
template <typename Term>
double sum(const float* x, size_t count, const Term& term) {
  constexpr size_t kSums = 4;
  Vector sums[kSums] = {};
  size_t i = 0;
  for (; i + kSums * kLanes <= count; i += kSums * kLanes)
    for (size_t s = 0; s < kSums; ++s) sums[s] += term(load(x + i + s * kLanes));
  double total = 0.0;
  for (const Vector& part : sums)
    for (size_t lane = 0; lane < kLanes; ++lane) total += double(part[lane]);
  for (; i < count; ++i) total += double(term(x[i]));
  return total;
}

struct Moments {
  double mean, variance;
};

// In one pass through memory, by the update of Chan, Golub and LeVeque (1983).
Moments moments(const float* x, size_t count) {
  double mean = 0.0, squares = 0.0;
  for (size_t done = 0; done < count; done += kChunk) {
    const size_t size = std::min(kChunk, count - done);
    const double own = sum(x + done, size, [](auto value) { return value; }) / double(size);
    const float centre = float(own);
    const double distance = own - mean, share = double(size) / double(done + size);
    squares += sum(x + done, size, [&](auto value) {
      const auto difference = value - centre;
      return difference * difference;
    });
    squares += distance * distance * double(done) * share;
    mean += distance * share;
  }
  return {mean, squares / double(count)};
}

// A channel's values to (value - centre) * factor + shift.
struct Affine {
  float centre, factor, shift;
};

template <bool Swish>
inline Vector normalised(Vector x, const Affine& to) {
  const Vector z = (x - to.centre) * to.factor + to.shift;
  if constexpr (Swish) return z / (1.0f + exponential(-z));
  return z;
}

template <bool Swish>
void normalise_channel(const float* x, size_t count, const Affine& to, float* y) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, normalised<Swish>(load(x + i), to));
  if (i == count) return;
  float rest[kLanes] = {};
  std::copy(x + i, x + count, rest);
  store(rest, normalised<Swish>(load(rest), to));
  std::copy_n(rest, count - i, y + i);
}

void normalise(const Group& group, const float* x, float* y) {
  const Moments found = moments(x, group.channels * group.plane);
  const double scale = 1.0 / std::sqrt(found.variance + double(group.epsilon));
  const float centre = float(found.mean);
  for (size_t c = 0; c < group.channels; ++c, x += group.plane, y += group.plane) {
    const double factor = scale * double(group.weight[c]);
    const double shift = double(group.bias[c]) + (double(centre) - found.mean) * factor;
    const auto run = group.swish ? normalise_channel<true> : normalise_channel<false>;
    run(x, group.plane, {centre, float(factor), float(shift)}, y);
  }
}

}  // namespace

const Normalise LPNSR_OF_LANES(kNormalise) = normalise;

}  // namespace lpnsr
