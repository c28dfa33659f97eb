#include "ops/sgd.h"

#include "cpu/tensor-list.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

struct Factors {
  float lr, decay, gradScale, momentum;
};

// Numbers begin … end of one tensor.
template <bool hasMomentum>
HADAL_INLINE void updateRange(const SgdParamsOf<hasMomentum>& p, int64_t tensor, const Factors& f, void* const* buffers,
                              int64_t begin, int64_t end) {
  const DType dtype = p.dtype[tensor], gradDtype = p.gradDtype[tensor], momentDtype = p.momentDtype[tensor];
  const void *param = buffers[0], *grad = buffers[1], *m = hasMomentum ? buffers[2] : nullptr;
  void* const* next = buffers + (hasMomentum ? 3 : 2);
  void* copy = next[hasMomentum ? 2 : 1];
  forLanes(end - begin, [&](int64_t offset, auto part) {
    const int64_t i = begin + offset;
    const Vec x = loadAny(dtype, param, i, part);
    const Vec g = loadAny(gradDtype, grad, i, part) * f.gradScale + x * f.decay;
    Vec step = g;
    if constexpr (hasMomentum) {
      const Vec m1 = loadAny(momentDtype, m, i, part) * f.momentum + g;
      step = p.nesterov ? g + m1 * f.momentum : m1;
      storeAny(momentDtype, next[1], i, part, m1);
    }
    const Vec nextParam = x - step * f.lr;
    storeAny(dtype, next[0], i, part, nextParam);
    if (copy) storeAny(p.copyDtype[tensor], copy, i, part, nextParam);
  });
}

template <bool hasMomentum>
HADAL_INLINE void update(const SgdParamsOf<hasMomentum>& p, void* const* buffers, RunContext& context) {
  const double lr = *static_cast<const float*>(buffers[0]);
  Factors common{};
  common.gradScale = *static_cast<const float*>(buffers[1]);
  common.momentum = static_cast<float>(p.momentum);
  forTensorList(p.tensors, p.count, context.threads, [&](int64_t i, int64_t begin, int64_t end) {
    Factors f = common;
    f.lr = static_cast<float>(lr * p.lrRatio[i]), f.decay = static_cast<float>(p.weightDecay[i]);
    updateRange(p, i, f, buffers + 2 + (hasMomentum ? 6 : 4) * i, begin, end);
  });
}

void updatePlain(const SgdParams& p, void* const* buffers, RunContext& context) { update(p, buffers, context); }
void updateMomentum(const SgdMomentumParams& p, void* const* buffers, RunContext& context) {
  update(p, buffers, context);
}

}  // namespace

HADAL_KERNEL(sgd, SgdParams, updatePlain)
HADAL_KERNEL(sgdMomentum, SgdMomentumParams, updateMomentum)

}  // namespace HADAL_ISA
}  // namespace hadal
