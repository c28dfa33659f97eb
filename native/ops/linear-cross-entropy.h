// Linear layer and cross-entropy in one, never holding the logits of all rows.
//   z_NV = hidden_ND · weight_VDᵀ,  lse = log Σ_j exp z_j
//   losses_N = lse − (1 − ε)·z_label − (ε/V)·Σ_j z_j + zLoss·lse²   (0 where label = ignoreIndex)
//   loss = scale · Σ losses
//   dz = scale · (softmax(z)·(1 + 2·zLoss·lse) − (1 − ε)·onehot(label) − ε/V),  dhidden = dz·weight,  dweight = dzᵀ·hidden
// ε is label smoothing (Szegedy et al. 2016, arXiv:1512.00567, §7); z-loss is of Chowdhery et al. 2022, arXiv:2204.02311, §5.
// The gradients of `loss` are computed with the logits at hand, for chunkRows rows at a time (0: as many as run fastest); either may be
// left out (null).
// N rows, V vocabulary, D features. hidden, dhidden in dtypeH; weight in dtypeW, dweight in dtypeDW; loss_1, losses_N, scale_1
// fp32. Where hidden and weight are bf16 (on a GPU: or fp16), softmax(z) is rounded to it before the gradients' products; the losses
// are fp32's.
// Bytes: reads N·D + chunks·V·D, writes N·D + chunks·V·D.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct LinearCrossEntropyParams {
  int64_t rows, vocab, dim, ignoreIndex, chunkRows;
  double labelSmoothing, zLoss;
  DType dtypeH, dtypeW, dtypeDW;

  const char* check() const {
    if (vocab < 1 || dim < 1 || vocab > INT32_MAX) return "expected vocab in 1..2^31-1 and dim >= 1";
    if (!sizeFits(rows, dim, 4) || !sizeFits(vocab, dim, 4) || !sizeFits(rows, vocab, 4))
      return "expected sizes >= 0 whose products fit in 56 bits";
    if (!(labelSmoothing >= 0 && labelSmoothing <= 1) || !(zLoss >= 0))
      return "expected labelSmoothing in 0..1, zLoss >= 0";
    if (chunkRows < 0) return "expected chunkRows >= 0";
    if (!isFloat(dtypeH) || !isFloat(dtypeW) || !isFloat(dtypeDW)) return "expected float dtypes";
    return nullptr;
  }
  int64_t bytesHidden() const { return rows * dim * bytesOf(dtypeH); }
  int64_t bytesWeight() const { return vocab * dim * bytesOf(dtypeW); }
  int64_t bytesDweight() const { return vocab * dim * bytesOf(dtypeDW); }
  BufferList buffers() const {
    return BufferList()
        .in("hidden", bytesHidden())
        .in("weight", bytesWeight())
        .in("labels", rows * 4)
        .in("scale", 4)
        .out("loss", 4)
        .optional("dhidden", bytesHidden(), Access::out)
        .optional("dweight", bytesDweight(), Access::out)
        .optional("losses", rows * 4, Access::out);
  }
};

HADAL_CONTRACT(linearCrossEntropy, "linear-cross-entropy", LinearCrossEntropyParams, rows, vocab, dim, ignoreIndex,
               chunkRows, labelSmoothing, zLoss, dtypeH, dtypeW, dtypeDW);

}  // namespace
}  // namespace hadal
