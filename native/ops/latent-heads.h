// Heads of multi-head latent attention: DeepSeek-V2, arXiv:2405.04434, eq. 10–16, in one pass over memory.
//   q:  the last R dims of each head rotated (native/ops/rotary.h), the others copied
//   k = [keyValue's first D − R dims | sharedKey rotated, the same for all heads],  v = keyValue's other dims
// Backward, its transpose: dq rotated back, dkeyValue = [dk's first D − R dims | dv], dsharedKey = Σ_heads dk's last R dims
// (fp32), rotated back.
// B batch, T tokens, H heads, D size of a query/key head, R rotary dims, E size of a value head, P positions.
// q_BTHD (and its result, which may be the same memory), keyValue_BTH(D−R+E), sharedKey_BTR, k_BTHD, v_BTHE in dtype;
// cos, sin fp32 [P, R/2]; positions_BT int32.
// Bytes: reads q, keyValue, sharedKey and a table row per token, writes q, k, v; backward the other way round.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct LatentHeadsParams {
  int64_t tokens, heads, dim, valueDim, rotaryDims, positions, interleaved;  // tokens: B · T
  DType dtype;

  const char* check() const {
    const int64_t sizes[] = {tokens, heads, dim, valueDim, rotaryDims, positions};
    for (const int64_t size : sizes)
      if (size < 0 || size > INT32_MAX) return "expected sizes of 0 to 2^31 - 1";
    if (rotaryDims % 2 || rotaryDims > dim) return "expected an even number of rotary dims within the head";
    if (!sizeFits(tokens, heads, dim + valueDim, int64_t{4}) || !sizeFits(tokens, rotaryDims, int64_t{4}))
      return "expected tokens * heads * dims to fit in 56 bits";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t plainDims() const { return dim - rotaryDims; }
  int64_t keyValueDims() const { return plainDims() + valueDim; }
  int64_t ofHeads(int64_t dims) const { return tokens * heads * dims * bytesOf(dtype); }
  int64_t sharedKey() const { return tokens * rotaryDims * bytesOf(dtype); }
  int64_t table() const { return positions * (rotaryDims / 2) * 4; }
  BufferList buffers() const {
    return BufferList()
        .in("q", ofHeads(dim))
        .in("keyValue", ofHeads(keyValueDims()))
        .in("sharedKey", sharedKey())
        .in("cos", table())
        .in("sin", table())
        .in("positions", tokens * 4)
        .out("rotated", ofHeads(dim))
        .out("k", ofHeads(dim))
        .out("v", ofHeads(valueDim));
  }
};

struct LatentHeadsBackwardParams : LatentHeadsParams {
  BufferList buffers() const {
    return BufferList()
        .in("drotated", ofHeads(dim))
        .in("dk", ofHeads(dim))
        .in("dv", ofHeads(valueDim))
        .in("cos", table())
        .in("sin", table())
        .in("positions", tokens * 4)
        .out("dq", ofHeads(dim))
        .out("dkeyValue", ofHeads(keyValueDims()))
        .out("dsharedKey", sharedKey());
  }
};

HADAL_CONTRACT(latentHeads, "latent-heads", LatentHeadsParams, tokens, heads, dim, valueDim, rotaryDims, positions,
               interleaved, dtype);
HADAL_CONTRACT(latentHeadsBackward, "latent-heads-backward", LatentHeadsBackwardParams, tokens, heads, dim, valueDim,
               rotaryDims, positions, interleaved, dtype);

}  // namespace
}  // namespace hadal
