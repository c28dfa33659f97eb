// Tokens to the rows of their experts and back. A pair is a token and one of its K choices, numbered t·K + k.
//   expert-order: stable counting sort of the pairs by expert. offsets_{E+1}: where each expert's rows begin; position_TK: the
//     row of each pair, −1 where its expert is −1; source_R: the pair of each row, 0 beyond the rows in use; rows [1] = offsets[E].
//   permute:     y[r] = w[s]·x[s / K], s = source[r], for r < rows; rows beyond are not written
//   unpermute:   x[t] = Σ_k w[t,k]·y[position[t,k]]   (fp32, in the order of k)
//   permute-dot: g[s] = Σ_d x[s / K, d]·y[r, d], s = source[r]   (0 where not routed)
// Each of the last three is the others' gradient; weights absent: 1.
//   unpermute-backward: both gradients of unpermute: dy[r] = w[s]·dx[s / K] (dy may be y's memory), dweights = permute-dot(dx, y)
// T tokens, K choices, E experts, R = T·K rows, D features. x_TD, y_RD in dtype; weights_TK, dweights_TK, g_TK fp32; the rest int32.
// Bytes: unpermute-backward reads T·D + R·D, writes R·D; the others read and write T·D and R·D once.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct ExpertOrderParams {
  int64_t pairs, experts;

  const char* check() const {
    if (pairs < 0 || pairs > INT32_MAX) return "expected fewer than 2^31 pairs";
    if (experts < 1 || experts > INT32_MAX) return "expected 1 to 2^31 - 1 experts";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("experts", pairs * 4)
        .out("offsets", (experts + 1) * 4)
        .out("position", pairs * 4)
        .out("source", pairs * 4)
        .out("rows", 4);
  }
};

struct PermuteParams {
  int64_t tokens, topK, dim;
  DType dtype;

  const char* check() const {
    if (tokens < 0 || topK < 1 || dim < 1) return "expected tokens >= 0, topK >= 1 and dim >= 1";
    if (!sizeFits(tokens, topK, dim, 4)) return "expected tokens * topK * dim to fit in 56 bits";
    if (pairs() > INT32_MAX) return "expected fewer than 2^31 pairs";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t pairs() const { return tokens * topK; }
  int64_t x() const { return tokens * dim * bytesOf(dtype); }
  int64_t y() const { return pairs() * dim * bytesOf(dtype); }
  BufferList buffers() const {
    return BufferList()
        .in("x", x())
        .optional("weights", pairs() * 4)
        .in("source", pairs() * 4)
        .in("rows", 4)
        .out("y", y());
  }
};

struct UnpermuteParams : PermuteParams {
  BufferList buffers() const {
    return BufferList().in("y", y()).optional("weights", pairs() * 4).in("position", pairs() * 4).out("x", x());
  }
};

struct PermuteDotParams : PermuteParams {
  BufferList buffers() const {
    return BufferList().in("x", x()).in("y", y()).in("source", pairs() * 4).in("rows", 4).out("g", pairs() * 4);
  }
};

struct UnpermuteBackwardParams : PermuteParams {
  BufferList buffers() const {
    return BufferList()
        .in("dx", x())
        .in("y", y())
        .in("weights", pairs() * 4)
        .in("source", pairs() * 4)
        .in("rows", 4)
        .out("dy", y())
        .out("dweights", pairs() * 4);
  }
};

HADAL_CONTRACT(expertOrder, "expert-order", ExpertOrderParams, pairs, experts);
HADAL_CONTRACT(permute, "permute", PermuteParams, tokens, topK, dim, dtype);
HADAL_CONTRACT(unpermute, "unpermute", UnpermuteParams, tokens, topK, dim, dtype);
HADAL_CONTRACT(permuteDot, "permute-dot", PermuteDotParams, tokens, topK, dim, dtype);
HADAL_CONTRACT(unpermuteBackward, "unpermute-backward", UnpermuteBackwardParams, tokens, topK, dim, dtype);

}  // namespace
}  // namespace hadal
