// What operators of ONNX Runtime have in common.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"

#if defined(_WIN32)
#define LPNSR_EXPORT extern "C" __declspec(dllexport)
#else
#define LPNSR_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace lpnsr {

using Shape = std::vector<int64_t>;

struct Tensor {
  Shape shape;
  const float* values;

  size_t count() const {
    size_t product = 1;
    for (const int64_t size : shape) product *= size_t(size);
    return product;
  }
};

// The calls of ONNX Runtime that its operators make; those that fail throw a Status*.
class Runtime {
 public:
  explicit Runtime(const Api& api) : api_(api) {}

  float number(const KernelInfo* info, const char* name) const {
    float value = 0.0f;
    check(api_.call(kKernelInfoGetAttributeFloat, info, name, &value));
    return value;
  }

  int64_t integer(const KernelInfo* info, const char* name) const {
    int64_t value = 0;
    check(api_.call(kKernelInfoGetAttributeInt64, info, name, &value));
    return value;
  }

  size_t inputs(const KernelContext* context) const {
    size_t count = 0;
    check(api_.call(kKernelContextGetInputCount, context, &count));
    return count;
  }

  // An input that does not change.
  Tensor constant(const KernelInfo* info, size_t index) const {
    int is_constant = 0;
    const Value* value = nullptr;
    check(api_.call(kKernelInfoGetConstantInputTensor, info, index, &is_constant, &value));
    if (!is_constant) throw std::runtime_error("its weights are not constant");
    return {shape(value), data(value)};
  }

  Tensor input(const KernelContext* context, size_t index) const {
    const Value* value = nullptr;
    check(api_.call(kKernelContextGetInput, context, index, &value));
    return {shape(value), data(value)};
  }

  float* output(KernelContext* context, const Shape& shape) const {
    Value* value = nullptr;
    check(api_.call(kKernelContextGetOutput, context, size_t(0), shape.data(), shape.size(), &value));
    return const_cast<float*>(data(value));
  }

  // Calls `work(index)` for all below `total`, on the threads of the session.
  template <typename Work>
  void parallel(const KernelContext* context, size_t total, const Work& work) const {
    struct Task {
      const Work& work;
      std::atomic<bool> failed{false};
    } task{work};
    const auto run = [](void* given, size_t index) noexcept {
      Task& task = *static_cast<Task*>(given);
      try {
        task.work(index);
      } catch (...) {  // memory is out; an exception must not leave a thread of the pool
        task.failed = true;
      }
    };
    check(api_.call(kKernelContextParallelFor, context, static_cast<void (*)(void*, size_t)>(run),
                    total, size_t(0), static_cast<void*>(&task)));
    if (task.failed) throw std::bad_alloc();
  }

 private:
  static void check(Status* status) {
    if (status) throw status;
  }

  const float* data(const Value* value) const {
    void* address = nullptr;
    check(api_.call(kGetTensorMutableData, const_cast<Value*>(value), &address));
    return static_cast<const float*>(address);
  }

  Shape shape(const Value* value) const {
    ShapeInfo* info = nullptr;
    check(api_.call(kGetTensorTypeAndShape, value, &info));
    size_t count = 0;
    Status* failed = api_.call(kGetDimensionsCount, static_cast<const ShapeInfo*>(info), &count);
    Shape found(count);
    if (!failed)
      failed = api_.call(kGetDimensions, static_cast<const ShapeInfo*>(info), found.data(), count);
    api_.release(kReleaseTensorTypeAndShapeInfo, info);
    check(failed);
    return found;
  }

  const Api& api_;
};

// No exception may enter ONNX Runtime.
template <typename Work>
Status* status_of(const Api& api, const char* name, const Work& work) noexcept {
  const auto failure = [&](const std::string& why) {
    const std::string message = name + (": " + why);
    using Create = Status*(ORT_CALL*)(int, const char*);
    return reinterpret_cast<Create>(api.functions[kCreateStatus])(kFail, message.c_str());
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

// An operator as ONNX Runtime takes it, of a class with the constants kName, kInputs and kRequiredInputs
// (so many at least), made from (Runtime, const KernelInfo*), with the method
// compute(KernelContext*). All tensors are of float32.
template <typename Operator>
class Registered {
  struct Made {
    const Api& api;
    Operator instance;
  };

 public:
  static constexpr CustomOp kOperator = {
      kApiVersion,
      nullptr,
      [](const CustomOp*) { return Operator::kName; },
      [](const CustomOp*) -> const char* { return nullptr; },
      [](const CustomOp*, size_t) { return kFloat; },
      [](const CustomOp*) { return Operator::kInputs; },
      [](const CustomOp*, size_t) { return kFloat; },
      [](const CustomOp*) { return size_t(1); },
      nullptr,
      [](void* made) { delete static_cast<Made*>(made); },
      [](const CustomOp*, size_t index) {
        return index < Operator::kRequiredInputs ? kRequired : kOptional;
      },
      [](const CustomOp*, size_t) { return kRequired; },
      [](const CustomOp*, size_t) { return kMemoryDefault; },
      [](const CustomOp*) { return 0; },
      [](const CustomOp*) { return 0; },
      [](const CustomOp*) { return 0; },
      [](const CustomOp*) { return 0; },
      [](const CustomOp*, const Api* api, const KernelInfo* info, void** made) {
        return status_of(*api, Operator::kName, [&] {
          *made = new Made{*api, Operator(Runtime(*api), info)};
        });
      },
      [](void* made, KernelContext* context) {
        const Made& own = *static_cast<Made*>(made);
        return status_of(own.api, Operator::kName, [&] { own.instance.compute(context); });
      },
      nullptr,
      [](const CustomOp*) { return 1; },
      [](const CustomOp*) { return 1; },
  };
};

extern const CustomOp kWinogradConv, kWinogradUpsample, kGroupNorm, kWindowAttention;

}  // namespace lpnsr
