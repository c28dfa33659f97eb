// Products with weights that were packed beforehand: c = a · w for few rows of a, as when tokens are decoded one at a time.
// M rows of a, N columns of c, K terms. Packed weights are panels of panelColumns columns, [⌈N / panelColumns⌉][K]
// [panelColumns], columns beyond N zero, in the dtype of w: what a register tile reads lies side by side.
// Bytes: reads M·K + K·⌈N⌉, writes M·N; packing reads K·N, writes K·⌈N⌉.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

// A row of a panel is two vectors of the widest instruction set and a whole number of all others'. src/ops/packed-matmul.ts
// has the same number.
constexpr int64_t panelColumns = 32;

struct PackWeightsParams {
  int64_t n, k, transposeB;  // w is [K, N], with transposeB [N, K]
  DType dtype;

  const char* check() const {
    if (!sizeFits(n, k, 4) || !sizeFits(k, panelColumns, 4)) return "expected sizes >= 0 whose products fit in 56 bits";
    if (transposeB < 0 || transposeB > 1) return "expected a transpose flag of 0 or 1";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t panels() const { return (n + panelColumns - 1) / panelColumns; }
  BufferList buffers() const {
    return BufferList().in("w", n * k * bytesOf(dtype)).out("packed", panels() * k * panelColumns * bytesOf(dtype));
  }
};

HADAL_CONTRACT(packWeights, "pack-weights", PackWeightsParams, n, k, transposeB, dtype);

struct PackedMatmulParams {
  int64_t m, n, k;
  DType dtypeA, dtypeW, dtypeC;

  const char* check() const {
    if (!sizeFits(m, k, 4) || !sizeFits(n, k, 4) || !sizeFits(m, n, 4) || !sizeFits(k, panelColumns, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (!isFloat(dtypeA) || !isFloat(dtypeW) || !isFloat(dtypeC)) return "expected float dtypes";
    return nullptr;
  }
  int64_t panels() const { return (n + panelColumns - 1) / panelColumns; }
  BufferList buffers() const {
    return BufferList()
        .in("a", m * k * bytesOf(dtypeA))
        .in("packed", panels() * k * panelColumns * bytesOf(dtypeW))
        .out("c", m * n * bytesOf(dtypeC));
  }
};

HADAL_CONTRACT(packedMatmul, "packed-matmul", PackedMatmulParams, m, n, k, dtypeA, dtypeW, dtypeC);

}  // namespace
}  // namespace hadal
