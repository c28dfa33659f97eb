// Formulas, shapes, bytes: native/ops/ema.h. Blocks share the numbers of all tensors by chunks (tensor-list.cuh).
#include "ops/ema.h"

#include "cuda/tensor-list.cuh"

namespace hadal {
namespace cuda {
namespace ema_kernels {

__device__ void update(const EmaParams& p, const TensorList<3>& list, const float* rest) {
  const auto [t, at] = tensorOfBlock(list);
  const DType dtype = p.dtype[t];
  const float share = *rest;
  forChunk(list, t, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    const auto rawX = loadRaw<n>(dtype, at[0], i), rawMean = loadRaw<n>(DType::fp32, at[1], i);
    const auto x = floatsOf(dtype, rawX);
    auto mean = floatsOf(DType::fp32, rawMean);
    // Not mean + (x − mean)·1, which may miss x by a rounding.
    for (int k = 0; k < n; k++) mean.at[k] = share == 1 ? x.at[k] : mean.at[k] + (x.at[k] - mean.at[k]) * share;
    storeFloats(DType::fp32, at[2], i, mean);
  });
}

void runUpdate(const EmaParams& p, void* const* b, RunContext& context) {
  const auto list = listOf<3>(p.tensors, p.count, b + 1);
  launch<update, threads, 4>(context, {.x = list.chunks}, p, list, static_cast<const float*>(b[0]));
}

}  // namespace ema_kernels

HADAL_KERNEL(ema, EmaParams, ema_kernels::runUpdate)

}  // namespace cuda
}  // namespace hadal
