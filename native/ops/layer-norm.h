// LayerNorm. Ba et al. 2016, arXiv:1607.06450.
//   y = (x − mean) · rstd · weight + bias,  rstd = 1 / sqrt(mean((x − mean)²) + eps)
// With a residual, x is the sum of two tensors, rounded to dtype, and a result too. Its own gradient, dsum, is added to dx.
// R rows, D features. x_RD, residual_RD, sum_RD, y_RD and their gradients in dtype; weight_D, bias_D and their gradients in
// weightDtype; mean_R, rstd_R fp32.
// Bytes: forward reads R·D + 2·D, writes R·D + 8R; a residual is R·D read and R·D written more. Backward reads
// 2·R·D + D + 8R, writes R·D + 2·D; dsum is R·D read more.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct LayerNormParams {
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
    return BufferList()
        .in("x", matrix())
        .in("weight", vector())
        .in("bias", vector())
        .out("y", matrix())
        .out("mean", rows * 4)
        .out("rstd", rows * 4);
  }
};

struct AddLayerNormParams : LayerNormParams {
  BufferList buffers() const {
    return BufferList()
        .in("x", matrix())
        .in("residual", matrix())
        .in("weight", vector())
        .in("bias", vector())
        .out("y", matrix())
        .out("mean", rows * 4)
        .out("rstd", rows * 4)
        .out("sum", matrix());
  }
};

struct LayerNormBackwardParams : LayerNormParams {
  BufferList buffers() const {
    return BufferList()
        .in("dy", matrix())
        .in("x", matrix())
        .in("weight", vector())
        .in("mean", rows * 4)
        .in("rstd", rows * 4)
        .optional("dsum", matrix())
        .out("dx", matrix())
        .out("dweight", vector())
        .out("dbias", vector());
  }
};

HADAL_CONTRACT(layerNorm, "layer-norm", LayerNormParams, rows, dim, eps, dtype, weightDtype);
HADAL_CONTRACT(addLayerNorm, "add-layer-norm", AddLayerNormParams, rows, dim, eps, dtype, weightDtype);
HADAL_CONTRACT(layerNormBackward, "layer-norm-backward", LayerNormBackwardParams, rows, dim, eps, dtype, weightDtype);

}  // namespace
}  // namespace hadal
