// Products with weights that were packed beforehand: c = a · w for few rows of a, as when tokens are decoded one at a time.
// B products (attention heads, say) of M rows of a, N columns of c, K terms. Packed weights are panels of panelColumns columns,
// [B][⌈N / panelColumns⌉][K][panelColumns], columns beyond N zero, in the dtype of w: what a register tile reads lies side by side.
// Bytes: reads B·(M·K + K·⌈N⌉), writes B·M·N; packing reads B·K·N, writes B·K·⌈N⌉.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

// A row of a panel is two vectors of the widest instruction set and a whole number of all others'. src/ops/packed-matmul.ts
// has the same number.
constexpr int64_t panelColumns = 32;

struct PackWeightsParams {
  int64_t batch, n, k, transposeB;  // w is [B, K, N], with transposeB [B, N, K]
  DType dtype;

  const char* check() const {
    if (!sizeFits(batch, n, k, 4) || !sizeFits(batch, k, panelColumns, 4) || !sizeFits(batch, n, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (transposeB < 0 || transposeB > 1) return "expected a transpose flag of 0 or 1";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  constexpr int64_t panels() const { return (n + panelColumns - 1) / panelColumns; }
  BufferList buffers() const {
    return BufferList()
        .in("w", batch * n * k * bytesOf(dtype))
        .out("packed", batch * panels() * k * panelColumns * bytesOf(dtype));
  }
};

HADAL_CONTRACT(packWeights, "pack-weights", PackWeightsParams, batch, n, k, transposeB, dtype);

struct PackedMatmulParams {
  int64_t batch, m, n, k;
  DType dtypeA, dtypeW, dtypeC;

  const char* check() const {
    if (!sizeFits(batch, m, k, 4) || !sizeFits(batch, n, k, 4) || !sizeFits(batch, m, n, 4) ||
        !sizeFits(batch, k, panelColumns, 4) || !sizeFits(batch, n, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (!isFloat(dtypeA) || !isFloat(dtypeW) || !isFloat(dtypeC)) return "expected float dtypes";
    return nullptr;
  }
  constexpr int64_t panels() const { return (n + panelColumns - 1) / panelColumns; }
  BufferList buffers() const {
    return BufferList()
        .in("a", batch * m * k * bytesOf(dtypeA))
        .in("packed", batch * panels() * k * panelColumns * bytesOf(dtypeW))
        .out("c", batch * m * n * bytesOf(dtypeC));
  }
};

HADAL_CONTRACT(packedMatmul, "packed-matmul", PackedMatmulParams, batch, m, n, k, dtypeA, dtypeW, dtypeC);

}  // namespace
}  // namespace hadal
