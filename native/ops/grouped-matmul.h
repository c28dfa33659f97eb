// Products of groups of rows, one weight matrix a group (mixture-of-experts layers).
// Rows are sorted by group: group e has rows offsets[e] … offsets[e+1]−1 (int32 [E+1], on the device; never read on the host).
//   grouped-matmul:                  y_e = x_e · op(w_e),  x_RK, w_EKN (or w_ENK where transposeB) → y_RN
//   grouped-matmul-weight-gradient:  c_e = a_eᵀ · b_e (+ addend_e, of c's dtype),  a_RM, b_RN → c_EMN; an empty group's product is 0
// Rows outside of all groups are neither read nor written. Arithmetic in fp32.
// Bytes: reads R·K + E·K·N, writes R·N; reads R·(M + N), writes E·M·N.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct GroupedMatmulParams {
  int64_t rows, groups, n, k, transposeB;
  DType dtypeX, dtypeW, dtypeY;

  const char* check() const {
    if (!sizeFits(rows, k, 4) || !sizeFits(rows, n, 4) || !sizeFits(groups, k, n, 4) || !sizeFits(groups, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (transposeB < 0 || transposeB > 1) return "expected transposeB of 0 or 1";
    if (!isFloat(dtypeX) || !isFloat(dtypeW) || !isFloat(dtypeY)) return "expected float dtypes";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("x", rows * k * bytesOf(dtypeX))
        .in("w", groups * k * n * bytesOf(dtypeW))
        .in("offsets", (groups + 1) * 4)
        .out("y", rows * n * bytesOf(dtypeY));
  }
};

struct GroupedMatmulWeightGradientParams {
  int64_t rows, groups, m, n;
  DType dtypeA, dtypeB, dtypeC;

  const char* check() const {
    if (!sizeFits(rows, m, 4) || !sizeFits(rows, n, 4) || !sizeFits(groups, m, n, 4) || !sizeFits(groups, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (!isFloat(dtypeA) || !isFloat(dtypeB) || !isFloat(dtypeC)) return "expected float dtypes";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("a", rows * m * bytesOf(dtypeA))
        .in("b", rows * n * bytesOf(dtypeB))
        .in("offsets", (groups + 1) * 4)
        .optional("addend", groups * m * n * bytesOf(dtypeC))
        .out("c", groups * m * n * bytesOf(dtypeC));
  }
};

HADAL_CONTRACT(groupedMatmul, "grouped-matmul", GroupedMatmulParams, rows, groups, n, k, transposeB, dtypeX, dtypeW,
               dtypeY);
HADAL_CONTRACT(groupedMatmulWeightGradient, "grouped-matmul-weight-gradient", GroupedMatmulWeightGradientParams, rows,
               groups, m, n, dtypeA, dtypeB, dtypeC);

}  // namespace
}  // namespace hadal
