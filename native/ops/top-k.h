// The numbers of greatest magnitude of a tensor with their places, and the sum of what several ranks chose. Aji & Heafield 2017,
// arXiv:1704.05021; what is not sent is added to the next gradient: Stich et al. 2018, arXiv:1809.07599.
//   top-k:      x = grad + scale·residual; message = places of the `kept` numbers of greatest |x| (int32, ascending), then
//               these numbers in bf16; nextResidual = x, where a number was sent x − its rounding
//   top-k-sum:  y = Σ over the messages of all ranks, in their order; 0 where none has the place
// Of equal magnitudes the lowest places are taken; NaN counts as the greatest. grad, residual, y fp32 [count]; scale fp32 [1],
// where it is 0 the residual is not read; a message is uint8, padded to whole int32. nextResidual may be in the place of residual.
// The k-th magnitude is found by its digits, 11 bits, 11 bits, 9 bits: each time the numbers with the digits known so far are
// counted by the next one. Nothing is sorted, and the result does not depend on the number of threads.
// Bytes for C numbers: top-k reads 8·C, writes 4·C, and reads 4·C up to four times; top-k-sum writes 4·C.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

HADAL_INLINE int64_t topKBytes(int64_t kept) { return (kept * 6 + 3) / 4 * 4; }

HADAL_INLINE const char* checkTopK(int64_t count, int64_t kept) {
  if (count < 1 || count > INT32_MAX) return "expected count in 1..2^31 - 1";
  return kept < 1 || kept > count ? "expected kept in 1..count" : nullptr;
}

struct TopKParams {
  int64_t count, kept;

  const char* check() const { return checkTopK(count, kept); }
  BufferList buffers() const {
    return BufferList()
        .in("grad", count * 4)
        .optional("residual", count * 4)
        .optional("scale", 4)
        .out("message", topKBytes(kept))
        .optional("nextResidual", count * 4, Access::out);
  }
};

HADAL_CONTRACT(topK, "top-k", TopKParams, count, kept);

struct TopKSumParams {
  int64_t count, kept, ranks;

  const char* check() const {
    if (ranks < 1 || ranks > 1 << 20) return "expected ranks in 1..2^20";
    return checkTopK(count, kept);
  }
  BufferList buffers() const { return BufferList().in("messages", ranks * topKBytes(kept)).out("y", count * 4); }
};

HADAL_CONTRACT(topKSum, "top-k-sum", TopKSumParams, count, kept, ranks);

}  // namespace
}  // namespace hadal
