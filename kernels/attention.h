// Attention inside windows, with what is added to the scores: Liu et al., Swin Transformer (2021).
//
// attention_lanes.cpp is compiled once for each width of vectors; attention.cpp chooses among these
// and is ONNX Runtime's operator.
#pragma once

#include <cstddef>

namespace lpnsr {

// One head in one window: softmax(scale * query * key^T + bias + mask) * value.
struct Head {
  size_t area;                       // tokens of the window, a multiple of 16
  size_t width;                      // values of a token
  size_t stride, out_stride;         // between tokens
  const float *query, *key, *value;  // (area, width)
  const float *bias, *mask;          // (area, area); the mask may be null
  float scale;
};

struct AttentionKernel {
  size_t (*scratch_size)(const Head&);  // in floats
  // `out` is (area, width); the address of `scratch` is a multiple of 64.
  void (*run)(const Head&, float* out, float* scratch);
};

extern const AttentionKernel kAttention4, kAttention8, kAttention16;  // see kernel_for

}  // namespace lpnsr
