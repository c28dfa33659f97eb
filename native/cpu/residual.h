// Gradients with what compression left of earlier ones.
#pragma once
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

// grad + scale·residual; without a residual, or where its scale is 0, the residual is not read.
class WithResidual {
 public:
  HADAL_INLINE WithResidual(const void* grad, const void* residual, const void* scale)
      : grad_(static_cast<const float*>(grad)), residual_(static_cast<const float*>(residual)) {
    scale_ = residual && scale ? *static_cast<const float*>(scale) : 0;
    if (scale_ == 0) residual_ = nullptr;
  }
  template <class Part>
  HADAL_INLINE Vec operator()(int64_t i, Part part) const {
    const Vec g = load(grad_ + i, part);
    return residual_ ? g + load(residual_ + i, part) * scale_ : g;
  }

 private:
  const float* grad_;
  const float* residual_;
  float scale_;
};

// Bits of |x|, in the order of the numbers; those of NaN are the greatest.
HADAL_INLINE UVec magnitudeBits(Vec x) { return reinterpret_cast<UVec>(x) & 0x7fffffffu; }
HADAL_INLINE uint32_t magnitudeBits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits & 0x7fffffffu;
}

}  // namespace HADAL_ISA
}  // namespace hadal
