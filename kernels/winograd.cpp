// Winograd convolutions as an operator of ONNX Runtime, `lpnsr:WinogradConv`:
//   y = conv(x, weights) + bias + residual, negative values times `slope`,
// with a kernel of 3x3, stride 1, a border of 1, float32; the residual may be left out. And the
// same as a plain C function for ctypes.
#include "winograd.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "onnxruntime_abi.h"

#if defined(_WIN32)
#define LPNSR_EXPORT extern "C" __declspec(dllexport)
#else
#define LPNSR_EXPORT extern "C" __attribute__((visibility("default")))
#endif

using namespace lpnsr;

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPanels = 1, kPanelsOfLarge = 4;  // of tiles at a time

struct Free {
  void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t(kAlignment)); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(size_t count) {
  const auto alignment = std::align_val_t(kAlignment);
  return Floats(static_cast<float*>(::operator new[](count * sizeof(float), alignment)));
}

bool runs([[maybe_unused]] const Kernel& kernel) {
#if defined(__x86_64__) || defined(_M_X64)
  if (kernel.lanes == 16) return __builtin_cpu_supports("avx512f");
  if (kernel.lanes == 8) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

// The widest vectors that this processor has, or those with so many lanes; null if it has not.
const Kernel* kernel_for(size_t lanes) {
  static const Kernel* const kernels[] = {
#if defined(__x86_64__) || defined(_M_X64)
      &kLanes16, &kLanes8,
#endif
      &kLanes4};
  for (const Kernel* kernel : kernels)
    if ((!lanes || kernel->lanes == lanes) && runs(*kernel)) return kernel;
  return nullptr;
}

// How a batch of pictures is divided.
class Division {
 public:
  Division(const Kernel& kernel, const Layer& layer, size_t batch, size_t threads)
      : layer_(layer), tiles_((layer.width + 3) / 4 * ((layer.height + 3) / 4)) {
    block_ = (layer.is_large() ? kPanelsOfLarge : kPanels) * kernel.tiles;
    // Without enough blocks for all threads, some make other channels of the same block.
    const size_t groups = divided(layer.out_channels, kernel.channels);
    const size_t wanted = divided(threads, batch * divided(tiles_, block_));
    channels_ = divided(groups, std::min(wanted, groups)) * kernel.channels;
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

// One part's work memory, kept for the next one of the thread.
float* scratch(size_t size) {
  thread_local Floats memory;
  thread_local size_t capacity = 0;
  if (size > capacity) {
    memory.reset();
    capacity = 0;
    memory = floats(size);
    capacity = size;
  }
  return memory.get();
}

struct Batch {
  const Kernel& kernel;
  const Layer& layer;
  const Division& division;
  const float *x, *residual;
  float* y;

  void run(size_t index) const {
    const size_t item = index / division.parts(), plane = layer.height * layer.width;
    const Part part = division.part(index % division.parts());
    const size_t out = item * layer.out_channels * plane;
    kernel.run(layer, part, x + item * layer.in_channels * plane,
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
  if (const auto found = known[layer.weights].lock()) return found;
  const std::shared_ptr<float> made(floats(kernel.packed_size(layer)).release(), Free());
  kernel.pack(layer, made.get());
  known[layer.weights] = made;
  return made;
}

class Operator {
 public:
  Operator(const Api& api, const KernelInfo* info) : api_(api), kernel_(*kernel_for(0)) {
    check(api_.call(kKernelInfoGetAttributeFloat, info, "slope", &slope_));
    const std::vector<int64_t> shape = constant(info, 1, &weights_);
    if (shape.size() != 4) throw std::runtime_error("its weights are not (out, in, 3, 3)");
    out_channels_ = size_t(shape[0]);
    in_channels_ = size_t(shape[1]);
    if (shape[2] != 3 || shape[3] != 3 || constant(info, 2, &bias_) != std::vector{shape[0]})
      throw std::runtime_error("its weights are not (out, in, 3, 3) and (out,)");
    if (!layer(0, 0).is_large()) packed_ = packed_weights(kernel_, layer(0, 0));
  }

  void compute(KernelContext* context) const {
    const Value* x = input(context, 0);
    std::vector<int64_t> shape = shape_of(x);
    if (shape.size() != 4 || size_t(shape[1]) != in_channels_)
      throw std::runtime_error("its input has other channels than its weights");
    shape[1] = int64_t(out_channels_);
    Value* y = nullptr;
    check(api_.call(kKernelContextGetOutput, context, size_t(0), shape.data(), shape.size(), &y));
    size_t inputs = 0;
    check(api_.call(kKernelContextGetInputCount, static_cast<const KernelContext*>(context), &inputs));
    const Value* residual = inputs > 3 ? input(context, 3) : nullptr;
    if (residual && shape_of(residual) != shape)
      throw std::runtime_error("its residual has another shape than its output");
    const Layer layer = this->layer(size_t(shape[2]), size_t(shape[3]));
    const size_t batch = size_t(shape[0]), threads = std::thread::hardware_concurrency();
    if (!batch || !layer.height || !layer.width) return;
    const Division division(kernel_, layer, batch, threads);
    const Batch work{kernel_, layer, division, data(x), residual ? data(residual) : nullptr,
                     const_cast<float*>(data(y))};
    Task task{work};
    const size_t total = batch * division.parts();
    check(api_.call(kKernelContextParallelFor, static_cast<const KernelContext*>(context), run_part,
                    total, size_t(0), static_cast<void*>(&task)));
    if (task.failed) throw std::bad_alloc();
  }

  void check(Status* status) const {
    if (status) throw status;
  }

 private:
  struct Task {
    const Batch& batch;
    std::atomic<bool> failed{false};
  };

  static void run_part(void* task, size_t index) noexcept {
    try {
      static_cast<Task*>(task)->batch.run(index);
    } catch (...) {  // memory is out; an exception must not leave a thread of the pool
      static_cast<Task*>(task)->failed = true;
    }
  }

  Layer layer(size_t height, size_t width) const {
    return {in_channels_, out_channels_, height, width, weights_, packed_.get(), bias_, slope_};
  }

  const Value* input(KernelContext* context, size_t index) const {
    const Value* value = nullptr;
    check(api_.call(kKernelContextGetInput, static_cast<const KernelContext*>(context), index, &value));
    return value;
  }

  // Shape and values of an input that does not change.
  std::vector<int64_t> constant(const KernelInfo* info, size_t index, const float** values) const {
    int is_constant = 0;
    const Value* value = nullptr;
    check(api_.call(kKernelInfoGetConstantInputTensor, info, index, &is_constant, &value));
    if (!is_constant) throw std::runtime_error("its weights are not constant");
    *values = data(value);
    return shape_of(value);
  }

  const float* data(const Value* value) const {
    void* address = nullptr;
    check(api_.call(kGetTensorMutableData, const_cast<Value*>(value), &address));
    return static_cast<const float*>(address);
  }

  std::vector<int64_t> shape_of(const Value* value) const {
    ShapeInfo* info = nullptr;
    check(api_.call(kGetTensorTypeAndShape, value, &info));
    size_t count = 0;
    Status* failed = api_.call(kGetDimensionsCount, static_cast<const ShapeInfo*>(info), &count);
    std::vector<int64_t> shape(count);
    if (!failed)
      failed = api_.call(kGetDimensions, static_cast<const ShapeInfo*>(info), shape.data(), count);
    api_.release(kReleaseTensorTypeAndShapeInfo, info);
    check(failed);
    return shape;
  }

  const Api& api_;
  const Kernel& kernel_;
  float slope_ = 1.0f;
  size_t in_channels_ = 0, out_channels_ = 0;
  const float *weights_ = nullptr, *bias_ = nullptr;
  std::shared_ptr<float> packed_;
};

const Api* api_of_process = nullptr;

// No exception may enter ONNX Runtime.
template <typename Work>
Status* status_of(const Work& work) noexcept {
  const auto failure = [](const std::string& why) {
    const std::string message = "WinogradConv: " + why;
    using Create = Status*(ORT_CALL*)(int, const char*);
    return reinterpret_cast<Create>(api_of_process->functions[kCreateStatus])(kFail, message.c_str());
  };
  try {
    work();
    return nullptr;
  } catch (Status* status) {
    return status;
  } catch (const std::bad_alloc&) {
    return failure("out of memory");
  } catch (const std::exception& error) {
    return failure(error.what());
  }
}

const CustomOp kOperator = {
    kApiVersion,
    nullptr,
    [](const CustomOp*) { return "WinogradConv"; },
    [](const CustomOp*) -> const char* { return nullptr; },
    [](const CustomOp*, size_t) { return kFloat; },
    [](const CustomOp*) { return size_t(4); },
    [](const CustomOp*, size_t) { return kFloat; },
    [](const CustomOp*) { return size_t(1); },
    nullptr,
    [](void* made) { delete static_cast<Operator*>(made); },
    [](const CustomOp*, size_t index) { return index < 3 ? kRequired : kOptional; },
    [](const CustomOp*, size_t) { return kRequired; },
    [](const CustomOp*, size_t) { return kMemoryDefault; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*, const Api* api, const KernelInfo* info, void** made) {
      return status_of([&] { *made = new Operator(*api, info); });
    },
    [](void* made, KernelContext* context) {
      return status_of([&] { static_cast<Operator*>(made)->compute(context); });
    },
    nullptr,
    [](const CustomOp*) { return 1; },
    [](const CustomOp*) { return 1; },
};

}  // namespace

// Called by ONNX Runtime's SessionOptions.register_custom_ops_library.
LPNSR_EXPORT Status* ORT_CALL RegisterCustomOps(SessionOptions* options, const ApiBase* base) {
  const Api* api = api_of_process = base->get_api(kApiVersion);
  if (!api) return nullptr;  // too old a version, which then does not know the operator
  // ONNX Runtime keeps the address, so the domain stays.
  static Domain* domain = nullptr;
  Status* status = nullptr;
  if (!domain) {
    status = api->call(kCreateCustomOpDomain, "lpnsr", &domain);
    if (!status) status = api->call(kCustomOpDomainAdd, domain, &kOperator);
  }
  return status ? status : api->call(kAddCustomOpDomain, options, domain);
}

// Whether this processor has vectors of so many floats.
LPNSR_EXPORT int lpnsr_winograd_lanes(size_t lanes) { return kernel_for(lanes) != nullptr; }

// One picture on one thread, divided as for `threads` of them; `lanes` as above.
LPNSR_EXPORT int lpnsr_winograd(size_t lanes, size_t threads, size_t in_channels,
                                size_t out_channels, size_t height, size_t width, float slope,
                                const float* weights, const float* bias, const float* x,
                                const float* residual, float* y) {
  const Kernel* kernel = kernel_for(lanes);
  if (!kernel) return 1;
  Layer layer{in_channels, out_channels, height, width, weights, nullptr, bias, slope};
  const Floats packed = floats(kernel->packed_size(layer));
  if (!layer.is_large()) kernel->pack(layer, packed.get());
  layer.packed = packed.get();
  const Division division(*kernel, layer, 1, threads);
  const Batch batch{*kernel, layer, division, x, residual, y};
  for (size_t index = 0; index < division.parts(); ++index) batch.run(index);
  return 0;
}
