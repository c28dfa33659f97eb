#include "ops/lion.h"

#include "cpu/tensor-list.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

struct Factors {
  float lr, keep, gradScale, beta1, rest1, beta2, rest2, eps;
};

// Numbers begin … end of one tensor.
template <bool hasRoot>
HADAL_INLINE void updateRange(const LionParamsOf<hasRoot>& p, int64_t tensor, const Factors& f, void* const* buffers,
                              int64_t begin, int64_t end) {
  const DType dtype = p.dtype[tensor], gradDtype = p.gradDtype[tensor], momentDtype = p.momentDtype[tensor];
  const void *param = buffers[0], *grad = buffers[1], *m = buffers[2], *s = hasRoot ? buffers[3] : nullptr;
  void* const* next = buffers + (hasRoot ? 4 : 3);
  void* copy = next[hasRoot ? 3 : 2];
  forLanes(end - begin, [&](int64_t offset, auto part) {
    const int64_t i = begin + offset;
    const Vec g = loadAny(gradDtype, grad, i, part) * f.gradScale;
    const Vec m0 = loadAny(momentDtype, m, i, part);
    const Vec mixed = m0 * f.beta1 + g * f.rest1;
    Vec step = signOf(mixed);
    if constexpr (hasRoot) {
      const Vec s1 = loadAny(momentDtype, s, i, part) * f.beta2 + g * g * f.rest2;
      step = step / (squareRoot(s1) + f.eps);
      storeAny(momentDtype, next[1], i, part, mixed);
      storeAny(momentDtype, next[2], i, part, s1);
    } else {
      storeAny(momentDtype, next[1], i, part, m0 * f.beta2 + g * f.rest2);
    }
    const Vec nextParam = loadAny(dtype, param, i, part) * f.keep - step * f.lr;
    storeAny(dtype, next[0], i, part, nextParam);
    if (copy) storeAny(p.copyDtype[tensor], copy, i, part, nextParam);
  });
}

template <bool hasRoot>
HADAL_INLINE void update(const LionParamsOf<hasRoot>& p, void* const* buffers, RunContext& context) {
  const double lr = *static_cast<const float*>(buffers[0]);
  const double beta1 = scheduled(p.beta1, p.beta1End, buffers[2]);
  const double beta2 = scheduled(p.beta2, p.beta2End, buffers[2]);
  Factors common{};
  common.gradScale = *static_cast<const float*>(buffers[1]);
  common.beta1 = static_cast<float>(beta1), common.rest1 = static_cast<float>(1 - beta1);
  common.beta2 = static_cast<float>(beta2), common.rest2 = static_cast<float>(1 - beta2);
  common.eps = static_cast<float>(p.eps);
  forTensorList(p.tensors, p.count, context.threads, [&](int64_t i, int64_t begin, int64_t end) {
    Factors f = common;
    const double rate = lr * p.lrRatio[i];
    f.lr = static_cast<float>(rate), f.keep = static_cast<float>(1 - rate * p.weightDecay[i]);
    updateRange(p, i, f, buffers + 3 + (hasRoot ? 8 : 6) * i, begin, end);
  });
}

void updateLion(const LionParams& p, void* const* buffers, RunContext& context) { update(p, buffers, context); }
void updateRoot(const LionRootParams& p, void* const* buffers, RunContext& context) { update(p, buffers, context); }

}  // namespace

HADAL_KERNEL(lion, LionParams, updateLion)
HADAL_KERNEL(lionRoot, LionRootParams, updateRoot)

}  // namespace HADAL_ISA
}  // namespace hadal
