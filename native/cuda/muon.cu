// Formulas, shapes, bytes: native/ops/muon.h. Blocks share the numbers of all tensors by chunks (tensor-list.cuh); what a
// tensor has of a stack is one of its buffers.
#include "ops/muon.h"

#include "cuda/tensor-list.cuh"

namespace hadal {
namespace cuda {
namespace muon {

__device__ void momentum(const MuonMomentumParams& p, const TensorList<4>& list, const float* gradScale) {
  const auto [t, at] = tensorOfBlock(list);
  const float scale = *gradScale, keep = static_cast<float>(p.momentum), rest = static_cast<float>(1 - p.momentum);
  const bool isNesterov = p.nesterov != 0;
  const DType gradDtype = p.gradDtype[t], momentDtype = p.momentDtype[t], stackDtype = p.stackDtype;
  forChunk(list, t, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    const auto rawGrad = loadRaw<n>(gradDtype, at[0], i), rawM = loadRaw<n>(momentDtype, at[1], i);
    auto direction = floatsOf(gradDtype, rawGrad), m = floatsOf(momentDtype, rawM);
    for (int k = 0; k < n; k++) {
      const float g = direction.at[k] * scale * rest;
      m.at[k] = m.at[k] * keep + g;
      direction.at[k] = isNesterov ? m.at[k] * keep + g : m.at[k];
    }
    storeFloats(momentDtype, at[2], i, m);
    storeFloats(stackDtype, at[3], i, direction);
  });
}

__device__ void update(const MuonUpdateParams& p, const TensorList<4>& list, const float* lr) {
  const auto [t, at] = tensorOfBlock(list);
  const double own = *lr * p.lrRatio[t];
  const float rate = static_cast<float>(own * p.scale), keep = static_cast<float>(1 - own * p.weightDecay[t]);
  const DType dtype = p.dtype[t], copyDtype = p.copyDtype[t], stackDtype = p.stackDtype;
  forChunk(list, t, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    const auto rawX = loadRaw<n>(dtype, at[0], i), rawStep = loadRaw<n>(stackDtype, at[3], i);
    auto x = floatsOf(dtype, rawX);
    const auto step = floatsOf(stackDtype, rawStep);
    for (int k = 0; k < n; k++) x.at[k] = x.at[k] * keep - step.at[k] * rate;
    storeFloats(dtype, at[1], i, x);
    if (at[2]) storeFloats(copyDtype, at[2], i, x);
  });
}

// Three buffers of each tensor in a row, and its share of the stack.
template <class Params>
TensorList<4> stackedList(const Params& p, void* const* own, void* stack) {
  return listOf<4>(p.tensors, p.count, [&](int t, int b) -> void* {
    if (b < 3) return own[3 * t + b];
    return static_cast<char*>(stack) + totalCount(t, p.count) * bytesOf(p.stackDtype);
  });
}

void runMomentum(const MuonMomentumParams& p, void* const* b, RunContext& context) {
  const auto list = stackedList(p, b + 1, b[1 + 3 * p.tensors]);
  launch<momentum, threads, 4>(context, {.x = list.chunks}, p, list, static_cast<const float*>(b[0]));
}

void runUpdate(const MuonUpdateParams& p, void* const* b, RunContext& context) {
  const auto list = stackedList(p, b + 2, b[1]);
  launch<update, threads, 4>(context, {.x = list.chunks}, p, list, static_cast<const float*>(b[0]));
}

}  // namespace muon

HADAL_KERNEL(muonMomentum, MuonMomentumParams, muon::runMomentum)
HADAL_KERNEL(muonUpdate, MuonUpdateParams, muon::runUpdate)

}  // namespace cuda
}  // namespace hadal
