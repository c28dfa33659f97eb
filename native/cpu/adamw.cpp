#include "ops/adamw.h"

#include "cpu/tensor-list.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

struct Factors {
  float lr, keep, cubic, gradScale, scale1, scale2, beta1, rest1, beta2, rest2, eps;
};

// Numbers begin … end of one tensor.
HADAL_INLINE void updateRange(const AdamwParams& p, int64_t tensor, const Factors& f, void* const* buffers,
                              int64_t begin, int64_t end) {
  const DType dtype = p.dtype[tensor], gradDtype = p.gradDtype[tensor], momentDtype = p.momentDtype[tensor];
  const void *param = buffers[0], *grad = buffers[1], *m = buffers[2], *v = buffers[3];
  void *nextParam = buffers[4], *nextM = buffers[5], *nextV = buffers[6], *copy = buffers[7];
  forLanes(end - begin, [&](int64_t offset, auto part) {
    const int64_t i = begin + offset;
    const Vec g = loadAny(gradDtype, grad, i, part) * f.gradScale;
    const Vec m1 = loadAny(momentDtype, m, i, part) * f.beta1 + g * f.rest1;
    const Vec v1 = loadAny(momentDtype, v, i, part) * f.beta2 + g * g * f.rest2;
    const Vec step = m1 * f.scale1 / (squareRoot(v1 * f.scale2) + f.eps);
    const Vec x = loadAny(dtype, param, i, part);
    Vec next = x * f.keep - step * f.lr;
    if (f.cubic != 0) next -= x * x * x * f.cubic;
    storeAny(dtype, nextParam, i, part, next);
    storeAny(momentDtype, nextM, i, part, m1);
    storeAny(momentDtype, nextV, i, part, v1);
    if (copy) storeAny(p.copyDtype[tensor], copy, i, part, next);
  });
}

void update(const AdamwParams& p, void* const* buffers, RunContext& context) {
  const auto number = [&](int index) { return *static_cast<const float*>(buffers[index]); };
  const double beta1 = scheduled(p.beta1, p.beta1End, buffers[4]);
  const double beta2 = scheduled(p.beta2, p.beta2End, buffers[4]);
  Factors common{};
  common.gradScale = number(1);
  common.scale1 = 1 / number(2), common.scale2 = 1 / number(3);
  common.beta1 = static_cast<float>(beta1), common.rest1 = static_cast<float>(1 - beta1);
  common.beta2 = static_cast<float>(beta2), common.rest2 = static_cast<float>(1 - beta2);
  common.eps = static_cast<float>(p.eps);
  forTensorList(p.tensors, p.count, context.threads, [&](int64_t i, int64_t begin, int64_t end) {
    Factors f = common;
    const double lr = number(0) * p.lrRatio[i];
    f.lr = static_cast<float>(lr);
    f.keep = static_cast<float>(1 - lr * p.weightDecay[i]), f.cubic = static_cast<float>(lr * p.l4Decay[i]);
    updateRange(p, i, f, buffers + 5 + 8 * i, begin, end);
  });
}

}  // namespace

HADAL_KERNEL(adamw, AdamwParams, update)

}  // namespace HADAL_ISA
}  // namespace hadal
