// Rotary position embedding. Su et al. 2021, arXiv:2104.09864, eq. 34.
//   (a, b) → (a·cos − b·sin, a·sin + b·cos) for each pair of a head's dims; inverse: sin negated.
// Pairs of the R rotary dims from `offset` on: interleaved (2j, 2j + 1), else half (j, j + R/2). The other dims are copied.
// B batch, T tokens, N heads, D head size, P positions. x_BTND, y_BTND in dtype (y may be x's memory);
// cos_PR2, sin_PR2 fp32 [P, R/2]; positions_BT int32.
// Bytes: reads x and a table row per token, writes y.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct RotaryParams {
  int64_t tokens, heads, dim, offset, rotaryDims, positions, interleaved, inverse;  // tokens: B · T
  DType dtype;

  const char* check() const {
    const int64_t sizes[] = {tokens, heads, dim, offset, rotaryDims, positions};
    for (const int64_t size : sizes)
      if (size < 0 || size > INT32_MAX) return "expected sizes of 0 to 2^31 - 1";
    if (rotaryDims % 2 || offset + rotaryDims > dim) return "expected an even number of rotary dims within the head";
    const __int128 numbers = static_cast<__int128>(tokens) * heads * dim;  // below 2^93
    if (numbers > __int128{1} << 48) return "sizes overflow";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t tensor() const { return tokens * heads * dim * bytesOf(dtype); }
  int64_t table() const { return positions * (rotaryDims / 2) * 4; }
  BufferList buffers() const {
    return BufferList()
        .in("x", tensor())
        .in("cos", table())
        .in("sin", table())
        .in("positions", tokens * 4)
        .out("y", tensor());
  }
};

HADAL_CONTRACT(rotary, "rotary", RotaryParams, tokens, heads, dim, offset, rotaryDims, positions, interleaved, inverse,
               dtype);

}  // namespace
}  // namespace hadal
