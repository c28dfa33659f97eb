// Formulas, shapes, bytes: native/ops/adamw.h. Blocks share the numbers of all tensors by chunks (tensor-list.cuh). Nothing
// is computed that could hide memory: 28 bytes a number in fp32 for some 20 operations.
#include "ops/adamw.h"

#include "cuda/tensor-list.cuh"

namespace hadal {
namespace cuda {
namespace adamw_kernels {

using List = TensorList<8>;

struct Scalars {
  const float *lr, *gradScale, *correction1, *correction2, *betaShare;
};

struct Factors {
  float lr, keep, cubic, gradScale, scale1, scale2, beta1, rest1, beta2, rest2, eps;
};

__device__ __forceinline__ Factors factorsOf(const AdamwParams& p, int t, const Scalars& given) {
  const double beta1 = scheduled(p.beta1, p.beta1End, given.betaShare);
  const double beta2 = scheduled(p.beta2, p.beta2End, given.betaShare);
  const double lr = *given.lr * p.lrRatio[t];
  Factors f;
  f.lr = static_cast<float>(lr);
  f.keep = static_cast<float>(1 - lr * p.weightDecay[t]), f.cubic = static_cast<float>(lr * p.l4Decay[t]);
  f.gradScale = *given.gradScale;
  f.scale1 = 1 / *given.correction1, f.scale2 = 1 / *given.correction2;
  f.beta1 = static_cast<float>(beta1), f.rest1 = static_cast<float>(1 - beta1);
  f.beta2 = static_cast<float>(beta2), f.rest2 = static_cast<float>(1 - beta2);
  f.eps = static_cast<float>(p.eps);
  return f;
}

__device__ void update(const AdamwParams& p, const List& list, const Scalars& given) {
  const auto [t, at] = tensorOfBlock(list);
  const Factors f = factorsOf(p, t, given);
  const DType dtype = p.dtype[t], gradDtype = p.gradDtype[t], momentDtype = p.momentDtype[t];
  const DType copyDtype = p.copyDtype[t];
  forChunk(list, t, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    const auto rawX = loadRaw<n>(dtype, at[0], i), rawGrad = loadRaw<n>(gradDtype, at[1], i);
    const auto rawM = loadRaw<n>(momentDtype, at[2], i), rawV = loadRaw<n>(momentDtype, at[3], i);
    auto x = floatsOf(dtype, rawX), g = floatsOf(gradDtype, rawGrad);
    auto m = floatsOf(momentDtype, rawM), v = floatsOf(momentDtype, rawV);
    for (int k = 0; k < n; k++) {
      const float one = g.at[k] * f.gradScale, old = x.at[k];
      m.at[k] = m.at[k] * f.beta1 + one * f.rest1;
      v.at[k] = v.at[k] * f.beta2 + one * one * f.rest2;
      const float step = m.at[k] * f.scale1 / (sqrtf(v.at[k] * f.scale2) + f.eps);
      x.at[k] = old * f.keep - step * f.lr;
      if (f.cubic != 0) x.at[k] -= old * old * old * f.cubic;
    }
    storeFloats(dtype, at[4], i, x);
    storeFloats(momentDtype, at[5], i, m);
    storeFloats(momentDtype, at[6], i, v);
    if (at[7]) storeFloats(copyDtype, at[7], i, x);
  });
}

void runUpdate(const AdamwParams& p, void* const* b, RunContext& context) {
  const auto number = [&](int i) { return static_cast<const float*>(b[i]); };
  const auto list = listOf<8>(p.tensors, p.count, b + 5);
  launch<update, threads, 4>(context, {.x = list.chunks}, p, list,
                             Scalars{number(0), number(1), number(2), number(3), number(4)});
}

}  // namespace adamw_kernels

HADAL_KERNEL(adamw, AdamwParams, adamw_kernels::runUpdate)

}  // namespace cuda
}  // namespace hadal
