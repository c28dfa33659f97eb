// Numbers as 8-bit integers with a scale a block, in which gradients travel between N ranks, and their sums. Of a block of 256
//   s = max(2^-126, max |x| / 127, rounded up to bf16);  q = x / s, to the nearest integer, ties to even;  y = q·s
// s has 8 digits and q 7, so that y and x − y are exact in fp32: a residual is all of what was not sent. A block with a number
// that is not finite is NaN as a whole. A tensor of `count` numbers is cut to N parts of whole blocks, the last ones padded
// with zeros; a part of a message is its q in a row, one byte each, then its s in bf16.
//   quantize-blocks:    message = the parts of x, x = grad + scale·residual
//   sum-blocks:         t = Σ y over the messages of all ranks, in their order, for this rank's part; message = t;
//                       nextResidual = x − y, in this rank's part x − y + (t − what the message says of t)
//   dequantize-blocks:  y = the messages of all ranks, a part each, in a row
// grad, residual, y fp32 [count]; scale fp32 [1], where it is 0 the residual is not read; messages uint8. Without a residual,
// what rounding takes is lost. nextResidual may be in the place of residual.
// Bytes for C numbers: quantize-blocks reads 8·C and writes C; sum-blocks reads 10·C and writes 4·C; dequantize-blocks reads
// C and writes 4·C.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

// A scale is less than 1 % of a message then, while a number that is great beside others coarsens few of them.
inline constexpr int64_t quantizedBlock = 256;

// Blocks of a part, and bytes of a message of one.
HADAL_INLINE int64_t partBlocks(int64_t count, int64_t ranks) {
  return (count + ranks * quantizedBlock - 1) / (ranks * quantizedBlock);
}
HADAL_INLINE int64_t partBytes(int64_t count, int64_t ranks) { return partBlocks(count, ranks) * (quantizedBlock + 2); }

HADAL_INLINE const char* checkBlocks(int64_t count, int64_t ranks) {
  if (ranks < 1 || ranks > 1 << 20) return "expected ranks in 1..2^20";
  if (!sizeFits(count, 8) || !sizeFits(ranks, quantizedBlock, 8)) return "expected a count >= 0 below 2^53";
  return nullptr;
}

struct QuantizeBlocksParams {
  int64_t count, ranks;

  const char* check() const { return checkBlocks(count, ranks); }
  BufferList buffers() const {
    return BufferList()
        .in("grad", count * 4)
        .optional("residual", count * 4)
        .optional("scale", 4)
        .out("message", ranks * partBytes(count, ranks));
  }
};

HADAL_CONTRACT(quantizeBlocks, "quantize-blocks", QuantizeBlocksParams, count, ranks);

struct SumBlocksParams {
  int64_t count, ranks, rank;

  const char* check() const {
    if (const char* wrong = checkBlocks(count, ranks)) return wrong;
    return rank < 0 || rank >= ranks ? "expected rank among the ranks" : nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("received", ranks * partBytes(count, ranks))
        .optional("sent", ranks * partBytes(count, ranks))
        .optional("grad", count * 4)
        .optional("residual", count * 4)
        .optional("scale", 4)
        .out("message", partBytes(count, ranks))
        .optional("nextResidual", count * 4, Access::out);
  }
};

HADAL_CONTRACT(sumBlocks, "sum-blocks", SumBlocksParams, count, ranks, rank);

struct DequantizeBlocksParams {
  int64_t count, ranks;

  const char* check() const { return checkBlocks(count, ranks); }
  BufferList buffers() const { return BufferList().in("message", ranks * partBytes(count, ranks)).out("y", count * 4); }
};

HADAL_CONTRACT(dequantizeBlocks, "dequantize-blocks", DequantizeBlocksParams, count, ranks);

}  // namespace
}  // namespace hadal
