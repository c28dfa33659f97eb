// Gradients with what compression left of earlier ones.
#pragma once
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {

// grad + scale·residual; without a residual, or where its scale is 0, the residual is not read.
struct WithResidual {
  const float *grad, *residual, *scale;

  // By every thread, once.
  __device__ __forceinline__ float factor() const { return residual && scale ? *scale : 0.0f; }
  // Numbers i … i + width, aligned to their bytes.
  template <int width>
  __device__ __forceinline__ Pack<float, width> read(int64_t i, float factor) const {
    auto x = *reinterpret_cast<const Pack<float, width>*>(grad + i);
    if (factor == 0) return x;
    const auto left = *reinterpret_cast<const Pack<float, width>*>(residual + i);
    for (int k = 0; k < width; k++) x.at[k] = fmaf(left.at[k], factor, x.at[k]);
    return x;
  }
};

inline WithResidual withResidual(const void* grad, const void* residual, const void* scale) {
  return {static_cast<const float*>(grad), static_cast<const float*>(residual), static_cast<const float*>(scale)};
}

// Bits of |x|, in the order of the numbers; those of NaN are the greatest.
__device__ __forceinline__ uint32_t magnitudeBits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

}  // namespace cuda
}  // namespace hadal
