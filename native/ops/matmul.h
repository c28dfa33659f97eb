// Matrix product: c = op(a) · op(b) (+ addend), op(x) being x or its transpose. Arithmetic in fp32.
// B products, each op(a)_MK · op(b)_KN → c_MN; a, b and c dense. The addend is BMN, or one row N for all rows (addendIsRow).
// `extent` (int32 [1]) bounds what is in use: extent·extentUnit of the batch (extentDim 0), of M (1) or of K (2).
// Products and rows beyond it are not written; terms beyond it count as zero.
// Bytes: reads B·(M·K + K·N) and the addend, writes B·M·N.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct MatmulParams {
  int64_t batch, m, n, k, transposeA, transposeB, addendIsRow, extentDim, extentUnit;
  DType dtypeA, dtypeB, dtypeC, dtypeAddend;

  const char* check() const {
    if (!sizeFits(batch, m, k, 4) || !sizeFits(batch, k, n, 4) || !sizeFits(batch, m, n, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (transposeA < 0 || transposeA > 1 || transposeB < 0 || transposeB > 1 || addendIsRow < 0 || addendIsRow > 1)
      return "expected transpose flags and addendIsRow of 0 or 1";
    if (extentDim < 0 || extentDim > 2 || extentUnit < 0 || extentUnit > (int64_t{1} << 31))
      return "expected extentDim in 0..2 and extentUnit in 0..2^31";
    if (!isFloat(dtypeA) || !isFloat(dtypeB) || !isFloat(dtypeC) || !isFloat(dtypeAddend))
      return "expected float dtypes";
    return nullptr;
  }
  int64_t bytesA() const { return batch * m * k * bytesOf(dtypeA); }
  int64_t bytesB() const { return batch * k * n * bytesOf(dtypeB); }
  int64_t bytesC() const { return batch * m * n * bytesOf(dtypeC); }
  int64_t bytesAddend() const { return (addendIsRow ? n : batch * m * n) * bytesOf(dtypeAddend); }
  BufferList buffers() const {
    return BufferList()
        .in("a", bytesA())
        .in("b", bytesB())
        .optional("addend", bytesAddend())
        .optional("extent", 4)
        .out("c", bytesC());
  }
};

HADAL_CONTRACT(matmul, "matmul", MatmulParams, batch, m, n, k, transposeA, transposeB, addendIsRow, extentDim,
               extentUnit, dtypeA, dtypeB, dtypeC, dtypeAddend);

}  // namespace
}  // namespace hadal
