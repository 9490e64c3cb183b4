// Group normalisation as an operator of ONNX Runtime, `lpnsr:GroupNorm`: the channels of each group
// have mean 0 and variance 1, then come pairs of a factor and an addend, one value for each group or
// each channel, then the swish if it is wanted. And the same as a plain C function for ctypes.
#include "group_norm.h"

#include <stdexcept>
#include <vector>

#include "operator.h"
#include "processor.h"

namespace lpnsr {
namespace {

constexpr Compiled<Normalise> kCompiled[] = LPNSR_COMPILED(kNormalise);

class GroupNorm {
 public:
  static constexpr const char* kName = "GroupNorm";
  static constexpr size_t kInputs = 7, kRequiredInputs = 3;

  GroupNorm(const Runtime& runtime, const KernelInfo* info)
      : runtime_(runtime),
        normalise_(*kernel_for(0, kCompiled)),
        epsilon_(runtime.number(info, "epsilon")),
        swish_(runtime.integer(info, "swish") != 0) {}

  void compute(KernelContext* context) const {
    const Tensor x = runtime_.input(context, 0);
    float* y = runtime_.output(context, x.shape);
    if (x.shape.size() < 2) throw std::runtime_error("its input has no channels");
    if (!x.count()) return;
    const size_t channels = size_t(x.shape[1]), groups = runtime_.input(context, 1).count();
    if (!groups || channels % groups) throw std::runtime_error("its channels are not whole groups");
    std::vector<float> weight(channels, 1.0f), bias(channels, 0.0f);
    for (size_t pair = 1, end = runtime_.inputs(context); pair < end; pair += 2)
      apply(runtime_.input(context, pair), runtime_.input(context, pair + 1), weight, bias);
    const size_t size = channels / groups, plane = x.count() / size_t(x.shape[0]) / channels;
    runtime_.parallel(context, size_t(x.shape[0]) * groups, [&](size_t index) {
      const size_t first = index % groups * size, offset = index * size * plane;
      const Group group{size, plane, &weight[first], &bias[first], epsilon_, swish_};
      normalise_(group, x.values + offset, y + offset);
    });
  }

 private:
  static void apply(const Tensor& factor, const Tensor& addend, std::vector<float>& weight,
                    std::vector<float>& bias) {
    const size_t count = factor.count(), channels = weight.size();
    if (!count || channels % count || addend.count() != count)
      throw std::runtime_error("its factors and addends are not one a group or one a channel");
    for (size_t c = 0; c < channels; ++c) {
      const size_t at = c / (channels / count);
      weight[c] *= factor.values[at];
      bias[c] = bias[c] * factor.values[at] + addend.values[at];
    }
  }

  Runtime runtime_;
  const Normalise& normalise_;
  float epsilon_;
  bool swish_;
};

}  // namespace

const CustomOp kGroupNorm = Registered<GroupNorm>::kOperator;

}  // namespace lpnsr

// One picture of (channels, plane) on one thread; `lanes` as in kernel_for.
LPNSR_EXPORT int lpnsr_group_norm(size_t lanes, size_t groups, size_t channels, size_t plane,
                                  float epsilon, int swish, const float* weight, const float* bias,
                                  const float* x, float* y) {
  using namespace lpnsr;
  const Normalise* normalise = kernel_for(lanes, kCompiled);
  if (!normalise) return 1;
  const size_t size = channels / groups;
  for (size_t first = 0; first < channels; first += size) {
    const Group group{size, plane, weight + first, bias + first, epsilon, swish != 0};
    (*normalise)(group, x + first * plane, y + first * plane);
  }
  return 0;
}
