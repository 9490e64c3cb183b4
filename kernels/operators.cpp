// What ONNX Runtime finds in this library: the domain `lpnsr` and its operators.
#include "operator.h"

using namespace lpnsr;

// Called by ONNX Runtime's SessionOptions.register_custom_ops_library.
LPNSR_EXPORT Status* ORT_CALL RegisterCustomOps(SessionOptions* options, const ApiBase* base) {
  const Api* api = base->get_api(kApiVersion);
  if (!api) return nullptr;  // too old a version, which then does not know the operators
  // ONNX Runtime keeps the address, so the domain stays.
  static Domain* domain = nullptr;
  if (!domain) {
    Status* status = api->call(kCreateCustomOpDomain, "lpnsr", &domain);
    for (const CustomOp* each :
         {&kWinogradConv, &kWinogradUpsample, &kGroupNorm, &kWindowAttention})
      if (!status) status = api->call(kCustomOpDomainAdd, domain, each);
    if (status) return status;
  }
  return api->call(kAddCustomOpDomain, options, domain);
}
