// RMSNorm. Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
//   y = x · rstd · weight,  rstd = 1 / sqrt(mean(x²) + eps)
// R rows, D features. x_RD, y_RD, dy_RD, dx_RD in dtype; weight_D, dweight_D in weightDtype; rstd_R fp32.
// Bytes: forward reads R·D + D, writes R·D + 4R. Backward reads 2·R·D + D + 4R, writes R·D + D.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct RmsNormParams {
  int64_t rows, dim;
  double eps;
  DType dtype, weightDtype;

  const char* check() const {
    if (dim < 1 || !sizeFits(dim, 4, 1024) || !sizeFits(rows, dim, 4))
      return "expected rows >= 0, dim >= 1 and a product that fits in 56 bits";
    if (!isFloat(dtype) || !isFloat(weightDtype)) return "expected float dtypes";
    return nullptr;
  }
  int64_t matrix() const { return rows * dim * bytesOf(dtype); }
  int64_t vector() const { return dim * bytesOf(weightDtype); }
  BufferList buffers() const {
    return BufferList().in("x", matrix()).in("weight", vector()).out("y", matrix()).out("rstd", rows * 4);
  }
};

struct RmsNormBackwardParams : RmsNormParams {
  BufferList buffers() const {
    return BufferList()
        .in("dy", matrix())
        .in("x", matrix())
        .in("weight", vector())
        .in("rstd", rows * 4)
        .out("dx", matrix())
        .out("dweight", vector());
  }
};

HADAL_CONTRACT(rmsNorm, "rms-norm", RmsNormParams, rows, dim, eps, dtype, weightDtype);
HADAL_CONTRACT(rmsNormBackward, "rms-norm-backward", RmsNormBackwardParams, rows, dim, eps, dtype, weightDtype);

}  // namespace
}  // namespace hadal
