// Rounding to fp8 with one scale a tile, and back: what remains of numbers that products take in 8 bits.
//   s = max(2^-126, max |x| of the tile / 448), or the power of two that is next to it from above
//   y = s · E4M3(x / s)
// E4M3: 4 bits of exponent, 3 of mantissa, no infinity, largest number 448 (Micikevicius et al. 2022, arXiv:2209.05433); rounded
// to nearest, ties to even, larger numbers to ±448. Scales a tile: DeepSeek-V3, arXiv:2412.19437, §3.3.2.
// x RN in dtypeX, y RN in dtypeY; N columns. Rows are of G groups, R / G each, or offsets[e] … offsets[e + 1] − 1 with `offsets`
// (int32 [G + 1], rows beyond the last are neither read nor written). A group is cut into tiles of tileRows × tileColumns,
// at its end smaller ones. NaN stays NaN; in a tile with an infinity all is.
// Bytes: reads R·N, writes R·N.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct QuantizeTilesParams {
  int64_t groups, rows, columns, tileRows, tileColumns, powerOfTwo;
  DType dtypeX, dtypeY;

  const char* check() const {
    if (!sizeFits(rows, columns, 4) || !sizeFits(rows, groups, 8) || !sizeFits(groups, 8))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (tileRows < 1 || tileColumns < 1) return "expected tiles of at least 1 × 1";
    // 128: columns that are taken at once.
    if (!sizeFits(tileRows, tileColumns, 128)) return "expected tiles of at most 2^49 numbers";
    if (powerOfTwo < 0 || powerOfTwo > 1) return "expected powerOfTwo of 0 or 1";
    if (!isFloat(dtypeX) || !isFloat(dtypeY)) return "expected float dtypes";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("x", rows * columns * bytesOf(dtypeX))
        .optional("offsets", (groups + 1) * 4)
        .out("y", rows * columns * bytesOf(dtypeY));
  }
};

HADAL_CONTRACT(quantizeTiles, "quantize-tiles", QuantizeTilesParams, groups, rows, columns, tileRows, tileColumns,
               powerOfTwo, dtypeX, dtypeY);

}  // namespace
}  // namespace hadal
