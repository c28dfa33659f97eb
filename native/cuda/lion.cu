// Formulas, shapes, bytes: native/ops/lion.h. Blocks share the numbers of all tensors by chunks (tensor-list.cuh).
#include "ops/lion.h"

#include "cuda/tensor-list.cuh"

namespace hadal {
namespace cuda {
namespace lion_kernels {

struct Scalars {
  const float *lr, *gradScale, *betaShare;
};

struct Factors {
  float lr, keep, gradScale, beta1, rest1, beta2, rest2, eps;
};

template <class Params>
__device__ __forceinline__ Factors factorsOf(const Params& p, int t, const Scalars& given) {
  const double beta1 = scheduled(p.beta1, p.beta1End, given.betaShare);
  const double beta2 = scheduled(p.beta2, p.beta2End, given.betaShare);
  const double rate = *given.lr * p.lrRatio[t];
  Factors f;
  f.lr = static_cast<float>(rate), f.keep = static_cast<float>(1 - rate * p.weightDecay[t]);
  f.gradScale = *given.gradScale;
  f.beta1 = static_cast<float>(beta1), f.rest1 = static_cast<float>(1 - beta1);
  f.beta2 = static_cast<float>(beta2), f.rest2 = static_cast<float>(1 - beta2);
  f.eps = static_cast<float>(p.eps);
  return f;
}

__device__ __forceinline__ float signOf(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }

// Buffers: param, grad, m, (s,) nextParam, nextM, (nextS,) copy.
template <bool hasRoot>
inline constexpr int buffers = hasRoot ? 8 : 6;

template <bool hasRoot>
__device__ void update(const LionParamsOf<hasRoot>& p, const TensorList<buffers<hasRoot>>& list, const Scalars& given) {
  constexpr int next = hasRoot ? 4 : 3, copy = buffers<hasRoot> - 1;
  const auto [t, at] = tensorOfBlock(list);
  const Factors f = factorsOf(p, t, given);
  const DType dtype = p.dtype[t], gradDtype = p.gradDtype[t], momentDtype = p.momentDtype[t];
  const DType copyDtype = p.copyDtype[t];
  forChunk(list, t, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    const auto rawX = loadRaw<n>(dtype, at[0], i), rawGrad = loadRaw<n>(gradDtype, at[1], i);
    const auto rawM = loadRaw<n>(momentDtype, at[2], i), rawS = loadRaw<n>(momentDtype, at[next - 1], i);
    auto x = floatsOf(dtype, rawX), g = floatsOf(gradDtype, rawGrad);
    auto m = floatsOf(momentDtype, rawM), s = floatsOf(momentDtype, rawS);
    for (int k = 0; k < n; k++) {
      const float one = g.at[k] * f.gradScale, mixed = m.at[k] * f.beta1 + one * f.rest1;
      float step = signOf(mixed);
      if constexpr (hasRoot) {
        s.at[k] = s.at[k] * f.beta2 + one * one * f.rest2;
        step = step / (sqrtf(s.at[k]) + f.eps);
        m.at[k] = mixed;
      } else {
        m.at[k] = m.at[k] * f.beta2 + one * f.rest2;
      }
      x.at[k] = x.at[k] * f.keep - step * f.lr;
    }
    storeFloats(dtype, at[next], i, x);
    storeFloats(momentDtype, at[next + 1], i, m);
    if constexpr (hasRoot) storeFloats(momentDtype, at[next + 2], i, s);
    if (at[copy]) storeFloats(copyDtype, at[copy], i, x);
  });
}

template <bool hasRoot>
void run(const LionParamsOf<hasRoot>& p, void* const* b, RunContext& context) {
  const auto number = [&](int i) { return static_cast<const float*>(b[i]); };
  const auto list = listOf<buffers<hasRoot>>(p.tensors, p.count, b + 3);
  launch<update<hasRoot>, threads, 4>(context, {.x = list.chunks}, p, list, Scalars{number(0), number(1), number(2)});
}

}  // namespace lion_kernels

HADAL_KERNEL(lion, LionParams, lion_kernels::run<false>)
HADAL_KERNEL(lionRoot, LionRootParams, lion_kernels::run<true>)

}  // namespace cuda
}  // namespace hadal
