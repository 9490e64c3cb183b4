// Attention inside windows as an operator of ONNX Runtime, `lpnsr:WindowAttention`: of queries, keys
// and values (batch, tokens, 3 * channels), sorted into windows, a factor of the queries, the bias
// (heads, area, area) and, where there is one, a mask (windows, area, area). And the same as a plain
// C function for ctypes.
#include "attention.h"

#include <stdexcept>

#include "operator.h"
#include "processor.h"
#include "scratch.h"

namespace lpnsr {
namespace {

constexpr Compiled<AttentionKernel> kCompiled[] = LPNSR_COMPILED(kAttention);

struct Attention {
  const AttentionKernel& kernel;
  size_t heads, area, width;
  float scale;
  const float *tokens, *bias, *mask;
  float* y;

  // One head in one window.
  void run(size_t index) const {
    const size_t window = index / heads, head = index % heads, channels = heads * width;
    const float* query = tokens + window * area * 3 * channels + head * width;
    const Head given{area,
                     width,
                     3 * channels,
                     channels,
                     query,
                     query + channels,
                     query + 2 * channels,
                     bias + head * area * area,
                     mask ? mask + window * area * area : nullptr,
                     scale};
    kernel.run(given, y + window * area * channels + head * width,
               scratch(kernel.scratch_size(given)));
  }
};

class WindowAttention {
 public:
  static constexpr const char* kName = "WindowAttention";
  static constexpr size_t kInputs = 4, kRequiredInputs = 3;

  WindowAttention(const Runtime& runtime, const KernelInfo*)
      : runtime_(runtime), kernel_(*kernel_for(0, kCompiled)) {}

  void compute(KernelContext* context) const {
    const Tensor tokens = runtime_.input(context, 0), scale = runtime_.input(context, 1);
    const Tensor bias = runtime_.input(context, 2);
    if (tokens.shape.size() != 3 || bias.shape.size() != 3 || scale.count() != 1 || !bias.count())
      throw std::runtime_error("its inputs have other dimensions");
    const size_t heads = size_t(bias.shape[0]), area = size_t(bias.shape[1]);
    const size_t channels = size_t(tokens.shape[2]) / 3, all = tokens.count();
    if (bias.shape[1] != bias.shape[2] || area % 16 || tokens.shape[2] % 3 || channels % heads ||
        (all && all / channels / 3 % area))
      throw std::runtime_error("its tokens are not whole windows");
    float* y = runtime_.output(context, {tokens.shape[0], tokens.shape[1], int64_t(channels)});
    if (!all) return;
    const size_t windows = all / channels / 3 / area;
    const float* mask = nullptr;
    if (runtime_.inputs(context) > 3) {
      const Tensor given = runtime_.input(context, 3);
      if (given.count() != windows * area * area)
        throw std::runtime_error("its mask is not of its windows");
      mask = given.values;
    }
    const Attention work{kernel_,          heads, area, channels / heads, *scale.values,
                         tokens.values, bias.values, mask, y};
    runtime_.parallel(context, windows * heads, [&](size_t index) { work.run(index); });
  }

 private:
  Runtime runtime_;
  const AttentionKernel& kernel_;
};

}  // namespace

const CustomOp kWindowAttention = Registered<WindowAttention>::kOperator;

}  // namespace lpnsr

// All heads of all windows on one thread; `lanes` as in kernel_for.
LPNSR_EXPORT int lpnsr_attention(size_t lanes, size_t windows, size_t heads, size_t area,
                                 size_t width, float scale, const float* tokens, const float* bias,
                                 const float* mask, float* y) {
  using namespace lpnsr;
  const AttentionKernel* kernel = kernel_for(lanes, kCompiled);
  if (!kernel) return 1;
  const Attention work{*kernel, heads, area, width, scale, tokens, bias, mask, y};
  for (size_t index = 0; index < windows * heads; ++index) work.run(index);
  return 0;
}
