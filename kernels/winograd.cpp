// Winograd convolutions as operators of ONNX Runtime, with a kernel of 3x3, stride 1, a border of 1,
// float32:
//   `lpnsr:WinogradConv`: y = conv(x, weights) + bias + residual, which may be left out,
//   `lpnsr:WinogradUpsample`: y = conv(upsampled x2(x)) + bias, of the weights of four phases,
// negative values times `slope`. And the same as a plain C function for ctypes.
#include "winograd.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "operator.h"
#include "processor.h"
#include "scratch.h"

namespace lpnsr {
namespace {

constexpr Compiled<Kernel> kCompiled[] = LPNSR_COMPILED(kLanes);
constexpr size_t kPanels = 1, kPanelsOfLarge = 4;  // of tiles at a time

// How a batch of pictures is divided.
class Division {
 public:
  Division(const Kernel& kernel, const Layer& layer, size_t batch, size_t threads)
      : layer_(layer), tiles_((layer.width + 3) / 4 * ((layer.height + 3) / 4)) {
    block_ = (layer.is_large() ? kPanelsOfLarge : kPanels) * kernel.tiles;
    // Where blocks are too few for all threads, parts are some of the channels of a block.
    const size_t units = divided(layer.out_channels, kernel.channels);
    const size_t blocks = batch * divided(tiles_, block_);
    const size_t wanted = blocks < 4 * threads ? threads / std::gcd(blocks, threads) : 1;
    channels_ = divided(units, std::min(wanted, units)) * kernel.channels;
  }

  size_t parts() const { return divided(tiles_, block_) * divided(layer_.out_channels, channels_); }

  Part part(size_t index) const {
    const size_t blocks = divided(tiles_, block_);
    const size_t tile = index % blocks * block_, channel = index / blocks * channels_;
    return {tile, std::min(block_, tiles_ - tile), channel,
            std::min(channels_, layer_.out_channels - channel)};
  }

 private:
  static size_t divided(size_t total, size_t size) { return (total + size - 1) / size; }

  Layer layer_;
  size_t tiles_, block_, channels_;
};

struct Batch {
  const Kernel& kernel;
  const Layer& layer;
  const Division& division;
  const float *x, *residual;
  float* y;

  void run(size_t index) const {
    const size_t item = index / division.parts(), in_plane = layer.height * layer.width;
    const Part part = division.part(index % division.parts());
    const size_t out = item * layer.out_channels * layer.out_plane();
    kernel.run(layer, part, x + item * layer.in_channels * in_plane,
               residual ? residual + out : nullptr, y + out,
               scratch(kernel.scratch_size(layer, part)));
  }
};

// Transformed weights, which all operators of a session share that have the same weights.
std::shared_ptr<float> packed_weights(const Kernel& kernel, const Layer& layer) {
  static std::mutex mutex;
  static std::map<const float*, std::weak_ptr<float>> known;
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto entry = known.begin(); entry != known.end();)
    entry = entry->second.expired() ? known.erase(entry) : std::next(entry);
  if (const auto found = known[layer.weights[0]].lock()) return found;
  const std::shared_ptr<float> made(floats(kernel.packed_size(layer)).release(), Free());
  kernel.pack(layer, made.get());
  known[layer.weights[0]] = made;
  return made;
}

// Both operators, which differ in what they are given.
template <size_t Scale>
class Convolution {
 public:
  Convolution(const Runtime& runtime, const KernelInfo* info)
      : runtime_(runtime), kernel_(*kernel_for(0, kCompiled)) {
    layer_.scale = Scale;
    layer_.slope = runtime_.number(info, "slope");
    const int64_t taps = int64_t(layer_.taps());
    for (size_t phase = 0; phase < layer_.phases(); ++phase) {
      const Tensor weights = runtime_.constant(info, 1 + phase);
      const Shape& shape = weights.shape;
      if (shape.size() != 4 || shape[2] != taps || shape[3] != taps ||
          (phase && (size_t(shape[0]) != layer_.out_channels || size_t(shape[1]) != layer_.in_channels)))
        throw std::runtime_error("its weights are not (out, in, side, side)");
      layer_.out_channels = size_t(shape[0]);
      layer_.in_channels = size_t(shape[1]);
      layer_.weights[phase] = weights.values;
    }
    const Tensor bias = runtime_.constant(info, 1 + layer_.phases());
    if (bias.count() != layer_.out_channels) throw std::runtime_error("its bias is not (out,)");
    layer_.bias = bias.values;
    if (!layer_.is_large()) packed_ = packed_weights(kernel_, layer_);
    layer_.packed = packed_.get();
  }

  void compute(KernelContext* context) const {
    const Tensor x = runtime_.input(context, 0);
    if (x.shape.size() != 4 || size_t(x.shape[1]) != layer_.in_channels)
      throw std::runtime_error("its input has other channels than its weights");
    Layer layer = layer_;
    layer.height = size_t(x.shape[2]);
    layer.width = size_t(x.shape[3]);
    const int64_t scale = int64_t(Scale);
    const Shape shape = {x.shape[0], int64_t(layer.out_channels), scale * x.shape[2],
                         scale * x.shape[3]};
    const float* residual = nullptr;
    if (const size_t at = 2 + layer.phases(); runtime_.inputs(context) > at) {
      const Tensor given = runtime_.input(context, at);
      if (given.shape != shape)
        throw std::runtime_error("its residual has another shape than its output");
      residual = given.values;
    }
    float* y = runtime_.output(context, shape);
    if (!x.count()) return;
    const size_t batch = size_t(shape[0]), threads = std::thread::hardware_concurrency();
    const Division division(kernel_, layer, batch, threads);
    const Batch work{kernel_, layer, division, x.values, residual, y};
    runtime_.parallel(context, batch * division.parts(), [&](size_t index) { work.run(index); });
  }

 private:
  Runtime runtime_;
  const Kernel& kernel_;
  Layer layer_{};
  std::shared_ptr<float> packed_;
};

struct WinogradConv : Convolution<1> {
  using Convolution::Convolution;
  static constexpr const char* kName = "WinogradConv";
  static constexpr size_t kInputs = 4, kRequiredInputs = 3;
};

struct WinogradUpsample : Convolution<2> {
  using Convolution::Convolution;
  static constexpr const char* kName = "WinogradUpsample";
  static constexpr size_t kInputs = 6, kRequiredInputs = 6;
};

}  // namespace

const CustomOp kWinogradConv = Registered<WinogradConv>::kOperator;
const CustomOp kWinogradUpsample = Registered<WinogradUpsample>::kOperator;

}  // namespace lpnsr

using namespace lpnsr;

// Whether this processor has vectors of so many floats.
LPNSR_EXPORT int lpnsr_winograd_lanes(size_t lanes) { return kernel_for(lanes, kCompiled) != nullptr; }

// One picture on one thread, divided as for `threads` of them; `lanes` as in kernel_for. Weights of
// phases, if `scale` is 2, follow one another.
LPNSR_EXPORT int lpnsr_winograd(size_t lanes, size_t threads, size_t in_channels,
                                size_t out_channels, size_t height, size_t width, size_t scale,
                                float slope, const float* weights, const float* bias,
                                const float* x, const float* residual, float* y) {
  const Kernel* kernel = kernel_for(lanes, kCompiled);
  if (!kernel) return 1;
  Layer layer{in_channels, out_channels, height, width, scale, {}, nullptr, bias, slope};
  for (size_t phase = 0; phase < layer.phases(); ++phase)
    layer.weights[phase] =
        weights + phase * in_channels * out_channels * layer.taps() * layer.taps();
  const Floats packed = floats(kernel->packed_size(layer));
  if (!layer.is_large()) kernel->pack(layer, packed.get());
  layer.packed = packed.get();
  const Division division(*kernel, layer, 1, threads);
  const Batch batch{*kernel, layer, division, x, residual, y};
  for (size_t index = 0; index < division.parts(); ++index) batch.run(index);
  return 0;
}
