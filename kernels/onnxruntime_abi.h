// The part of ONNX Runtime's C interface that an operator of our own needs: its wheels bring no
// header. Written after onnxruntime_c_api.h of version 1.20; what is declared there is never moved
// or changed, only added to.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#else
#define ORT_CALL
#endif

namespace lpnsr {

struct Status {  // a null pointer means success
  Status() = delete;
};
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;

// The table of functions, called by their place in it.
struct Api {
  void* functions[275];

  template <typename... Parameters>
  Status* call(int place, Parameters... parameters) const {
    return reinterpret_cast<Status*(ORT_CALL*)(Parameters...)>(functions[place])(parameters...);
  }
  template <typename T>
  void release(int place, T* object) const {
    reinterpret_cast<void(ORT_CALL*)(T*)>(functions[place])(object);
  }
};

enum Place {
  kCreateStatus = 0,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttributeFloat = 85,
  kKernelInfoGetAttributeInt64 = 86,
  kKernelContextGetInputCount = 88,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelInfoGetConstantInputTensor = 249,
  kKernelContextParallelFor = 274,
};

constexpr uint32_t kApiVersion = 17;  // the first whose table is as long
constexpr int kFail = 1, kFloat = 1, kRequired = 0, kOptional = 1, kMemoryDefault = 0;

struct ApiBase {
  const Api*(ORT_CALL* get_api)(uint32_t version);
  const char*(ORT_CALL* get_version_string)();
};

struct CustomOp {
  uint32_t version;
  void*(ORT_CALL* create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char*(ORT_CALL* get_name)(const CustomOp*);
  const char*(ORT_CALL* get_execution_provider_type)(const CustomOp*);
  int(ORT_CALL* get_input_type)(const CustomOp*, size_t);
  size_t(ORT_CALL* get_input_type_count)(const CustomOp*);
  int(ORT_CALL* get_output_type)(const CustomOp*, size_t);
  size_t(ORT_CALL* get_output_type_count)(const CustomOp*);
  void(ORT_CALL* kernel_compute)(void*, KernelContext*);
  void(ORT_CALL* kernel_destroy)(void*);
  int(ORT_CALL* get_input_characteristic)(const CustomOp*, size_t);
  int(ORT_CALL* get_output_characteristic)(const CustomOp*, size_t);
  int(ORT_CALL* get_input_memory_type)(const CustomOp*, size_t);
  int(ORT_CALL* get_variadic_input_min_arity)(const CustomOp*);
  int(ORT_CALL* get_variadic_input_homogeneity)(const CustomOp*);
  int(ORT_CALL* get_variadic_output_min_arity)(const CustomOp*);
  int(ORT_CALL* get_variadic_output_homogeneity)(const CustomOp*);
  Status*(ORT_CALL* create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status*(ORT_CALL* kernel_compute_v2)(void*, KernelContext*);
  void* infer_output_shape;
  int(ORT_CALL* get_start_version)(const CustomOp*);
  int(ORT_CALL* get_end_version)(const CustomOp*);
};

}  // namespace lpnsr
