// Formulas, shapes, bytes: native/ops/sgd.h. Blocks share the numbers of all tensors by chunks (tensor-list.cuh).
#include "ops/sgd.h"

#include "cuda/tensor-list.cuh"

namespace hadal {
namespace cuda {
namespace sgd_kernels {

// Buffers: param, grad, (m,) nextParam, (nextM,) copy.
template <bool hasMomentum>
inline constexpr int buffers = hasMomentum ? 6 : 4;

template <bool hasMomentum>
__device__ void update(const SgdParamsOf<hasMomentum>& p, const TensorList<buffers<hasMomentum>>& list, const float* lr,
                       const float* gradScale) {
  constexpr int next = hasMomentum ? 3 : 2, copy = buffers<hasMomentum> - 1;
  const auto [t, at] = tensorOfBlock(list);
  const float rate = static_cast<float>(*lr * p.lrRatio[t]), decay = static_cast<float>(p.weightDecay[t]);
  const float scale = *gradScale, momentum = static_cast<float>(p.momentum);
  const bool isNesterov = p.nesterov != 0;
  const DType dtype = p.dtype[t], gradDtype = p.gradDtype[t], momentDtype = p.momentDtype[t];
  const DType copyDtype = p.copyDtype[t];
  forChunk(list, t, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    const auto rawX = loadRaw<n>(dtype, at[0], i), rawGrad = loadRaw<n>(gradDtype, at[1], i);
    Raw<n> rawM{};
    if constexpr (hasMomentum) rawM = loadRaw<n>(momentDtype, at[2], i);
    auto x = floatsOf(dtype, rawX), g = floatsOf(gradDtype, rawGrad), m = floatsOf(momentDtype, rawM);
    for (int k = 0; k < n; k++) {
      const float one = g.at[k] * scale + x.at[k] * decay;
      float step = one;
      if constexpr (hasMomentum) {
        m.at[k] = m.at[k] * momentum + one;
        step = isNesterov ? one + m.at[k] * momentum : m.at[k];
      }
      x.at[k] = x.at[k] - step * rate;
    }
    storeFloats(dtype, at[next], i, x);
    if constexpr (hasMomentum) storeFloats(momentDtype, at[next + 1], i, m);
    if (at[copy]) storeFloats(copyDtype, at[copy], i, x);
  });
}

template <bool hasMomentum>
void run(const SgdParamsOf<hasMomentum>& p, void* const* b, RunContext& context) {
  const auto list = listOf<buffers<hasMomentum>>(p.tensors, p.count, b + 2);
  launch<update<hasMomentum>, threads, 4>(context, {.x = list.chunks}, p, list, static_cast<const float*>(b[0]),
                                          static_cast<const float*>(b[1]));
}

}  // namespace sgd_kernels

HADAL_KERNEL(sgd, SgdParams, sgd_kernels::run<false>)
HADAL_KERNEL(sgdMomentum, SgdMomentumParams, sgd_kernels::run<true>)

}  // namespace cuda
}  // namespace hadal
