// Convolutions 3x3 of stride 1 in float32 by Winograd's minimal filtering, F(4x4, 3x3): Lavin and
// Gray (2016). A tile of 4x4 outputs takes 36 products a pair of channels instead of 144.
//
// Behind a nearest x2 upsampling, each of four phases of the result (its rows and columns modulo 2)
// is a convolution 2x2 of the picture before. As one of 3x3 with zeros in it, a phase shares the
// transformed picture with the others and needs 25 of the products: the others are zero.
//
// winograd_lanes.cpp is compiled once for each width of vectors; winograd.cpp chooses among these
// and is ONNX Runtime's operator.
#pragma once

#include <cstddef>

namespace lpnsr {

// All tensors are (channels, height, width), contiguous; the borders are padded with a zero.
struct Layer {
  size_t in_channels, out_channels;
  size_t height, width;     // of the input
  size_t scale;             // 2 if it is upsampled, else 1
  const float* weights[4];  // (out_channels, in_channels, 3, 3), or (.., 2, 2) of each phase
  const float* packed;      // the same, transformed; not for large layers
  const float* bias;        // (out_channels,)
  float slope;              // what negative results are multiplied by

  size_t phases() const { return scale * scale; }
  size_t taps() const { return scale == 1 ? 3 : 2; }  // in a row of a kernel
  size_t out_plane() const { return phases() * height * width; }

  // Transformed weights would not stay in the L2 cache, so more tiles share what is made of them.
  bool is_large() const { return phases() * in_channels * out_channels >= 160 * 160; }
};

// A part of a layer's work: some channels of consecutive tiles.
struct Part {
  size_t first_tile, tiles, first_channel, channels;
};

struct Kernel {
  size_t tiles, channels;  // a part starts at multiples of these
  size_t (*packed_size)(const Layer&);  // in floats, as all sizes
  void (*pack)(const Layer&, float* packed);
  size_t (*scratch_size)(const Layer&, const Part&);
  // y = conv(x) + bias + residual, the latter unless it is null. All addresses of `scratch` and of
  // packed weights are multiples of 64.
  void (*run)(const Layer&, const Part&, const float* x, const float* residual, float* y,
              float* scratch);
};

extern const Kernel kLanes4, kLanes8, kLanes16;  // any processor; AVX2 with FMA; AVX-512

}  // namespace lpnsr
