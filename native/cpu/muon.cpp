#include "ops/muon.h"

#include "cpu/tensor-list.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

void momentum(const MuonMomentumParams& p, void* const* buffers, RunContext& context) {
  const float gradScale = *static_cast<const float*>(buffers[0]);
  const float keep = static_cast<float>(p.momentum), rest = static_cast<float>(1 - p.momentum);
  void* direction = buffers[1 + 3 * p.tensors];
  forTensorList(p.tensors, p.count, context.threads, [&](int64_t tensor, int64_t begin, int64_t end) {
    const void *grad = buffers[1 + 3 * tensor], *m = buffers[2 + 3 * tensor];
    void* nextM = buffers[3 + 3 * tensor];
    const int64_t at = totalCount(tensor, p.count);
    forLanes(end - begin, [&](int64_t offset, auto part) {
      const int64_t i = begin + offset;
      const Vec g = loadAny(p.gradDtype[tensor], grad, i, part) * gradScale * rest;
      const Vec m1 = loadAny(p.momentDtype[tensor], m, i, part) * keep + g;
      storeAny(p.momentDtype[tensor], nextM, i, part, m1);
      storeAny(p.stackDtype, direction, at + i, part, p.nesterov ? m1 * keep + g : m1);
    });
  });
}

void update(const MuonUpdateParams& p, void* const* buffers, RunContext& context) {
  const double lr = *static_cast<const float*>(buffers[0]);
  const void* step = buffers[1];
  forTensorList(p.tensors, p.count, context.threads, [&](int64_t tensor, int64_t begin, int64_t end) {
    const void* param = buffers[2 + 3 * tensor];
    void *nextParam = buffers[3 + 3 * tensor], *copy = buffers[4 + 3 * tensor];
    const double own = lr * p.lrRatio[tensor];
    const float rate = static_cast<float>(own * p.scale), keep = static_cast<float>(1 - own * p.weightDecay[tensor]);
    const int64_t at = totalCount(tensor, p.count);
    forLanes(end - begin, [&](int64_t offset, auto part) {
      const int64_t i = begin + offset;
      const Vec next =
          loadAny(p.dtype[tensor], param, i, part) * keep - loadAny(p.stackDtype, step, at + i, part) * rate;
      storeAny(p.dtype[tensor], nextParam, i, part, next);
      if (copy) storeAny(p.copyDtype[tensor], copy, i, part, next);
    });
  });
}

}  // namespace

HADAL_KERNEL(muonMomentum, MuonMomentumParams, momentum)
HADAL_KERNEL(muonUpdate, MuonUpdateParams, update)

}  // namespace HADAL_ISA
}  // namespace hadal
