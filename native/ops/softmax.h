// Softmax over rows.
//   y = exp(x − max) / Σ exp(x − max);  dx = y · (dy − Σ y·dy)
// A row that is −inf throughout gives zeros. R rows, D numbers a row; all in dtype, statistics fp32.
// Bytes: forward reads R·D, writes R·D. Backward reads 2·R·D, writes R·D.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct SoftmaxParams {
  int64_t rows, dim;
  DType dtype;

  const char* check() const {
    if (dim < 1 || !sizeFits(dim, 4, 1024) || !sizeFits(rows, dim, 4))
      return "expected rows >= 0, dim >= 1 and a product that fits in 56 bits";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t matrix() const { return rows * dim * bytesOf(dtype); }
  BufferList buffers() const { return BufferList().in("x", matrix()).out("y", matrix()); }
};

struct SoftmaxBackwardParams : SoftmaxParams {
  BufferList buffers() const { return BufferList().in("dy", matrix()).in("y", matrix()).out("dx", matrix()); }
};

HADAL_CONTRACT(softmax, "softmax", SoftmaxParams, rows, dim, dtype);
HADAL_CONTRACT(softmaxBackward, "softmax-backward", SoftmaxBackwardParams, rows, dim, dtype);

}  // namespace
}  // namespace hadal
