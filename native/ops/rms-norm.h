// RMSNorm. Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
//   y = x · rstd · weight,  rstd = 1 / sqrt(mean(x²) + eps)
// With a residual, x is the sum of two tensors, rounded to dtype, and a result too. Its own gradient, dsum, is added to dx.
// R rows, D features. x_RD, residual_RD, sum_RD, y_RD and their gradients in dtype; weight_D, dweight_D in weightDtype;
// rstd_R fp32.
// Bytes: forward reads R·D + D, writes R·D + 4R; a residual is R·D read and R·D written more. Backward reads 2·R·D + D + 4R,
// writes R·D + D; dsum is R·D read more.
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

struct AddRmsNormParams : RmsNormParams {
  BufferList buffers() const {
    return BufferList()
        .in("x", matrix())
        .in("residual", matrix())
        .in("weight", vector())
        .out("y", matrix())
        .out("rstd", rows * 4)
        .out("sum", matrix());
  }
};

struct RmsNormBackwardParams : RmsNormParams {
  BufferList buffers() const {
    return BufferList()
        .in("dy", matrix())
        .in("x", matrix())
        .in("weight", vector())
        .in("rstd", rows * 4)
        .optional("dsum", matrix())
        .out("dx", matrix())
        .out("dweight", vector());
  }
};

HADAL_CONTRACT(rmsNorm, "rms-norm", RmsNormParams, rows, dim, eps, dtype, weightDtype);
HADAL_CONTRACT(addRmsNorm, "add-rms-norm", AddRmsNormParams, rows, dim, eps, dtype, weightDtype);
HADAL_CONTRACT(rmsNormBackward, "rms-norm-backward", RmsNormBackwardParams, rows, dim, eps, dtype, weightDtype);

}  // namespace
}  // namespace hadal
