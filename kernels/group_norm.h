// Group normalisation in float32: Wu and He (2018), with the swish that often follows.
//
// group_norm_lanes.cpp is compiled once for each width of vectors; group_norm.cpp chooses among
// these and is ONNX Runtime's operator.
#pragma once

#include <cstddef>

namespace lpnsr {

// The channels of a picture that share mean and variance.
struct Group {
  size_t channels, plane;       // plane: values of a channel
  const float *weight, *bias;   // of each channel
  float epsilon;
  bool swish;                   // z -> z / (1 + exp(-z)) at last
};

// Writes the normalised channels of `x`, which lie one behind the other, to `y`.
using Normalise = void (*)(const Group&, const float* x, float* y);

extern const Normalise kNormalise4, kNormalise8, kNormalise16;  // see kernel_for in processor.h

}  // namespace lpnsr
