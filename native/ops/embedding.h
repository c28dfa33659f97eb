// Embedding: y[n] = table[ids[n]], and its transpose, dtable[v] = addend[v] + Σ_{n: ids[n] = v} dy[n] (in the order of n, fp32).
// V vocabulary, D features, N ids. table_VD, dtable_VD, addend_VD (absent: 0; it may be dtable's memory) in dtypeTable;
// y_ND, dy_ND in dtypeY; ids_N int32.
// Bytes: forward reads N·D + 4N, writes N·D. Backward reads N·D + 4N, writes V·D; onto an addend in place only rows with ids.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct EmbeddingParams {
  int64_t ids, vocabulary, dim;
  DType dtypeTable, dtypeY;

  const char* check() const {
    if (ids < 0 || ids > INT32_MAX || vocabulary < 0 || vocabulary > INT32_MAX || dim < 1)
      return "expected ids and vocabulary from 0 to 2^31 - 1 and dim >= 1";
    if (!sizeFits(dim, 4) || !sizeFits(ids, dim, 4) || !sizeFits(vocabulary, dim, 4))
      return "expected ids * dim and vocabulary * dim to fit in 56 bits";
    if (!isFloat(dtypeTable) || !isFloat(dtypeY)) return "expected float dtypes";
    return nullptr;
  }
  int64_t tableRow() const { return dim * bytesOf(dtypeTable); }
  int64_t table() const { return vocabulary * tableRow(); }
  int64_t y() const { return ids * dim * bytesOf(dtypeY); }
  BufferList buffers() const { return BufferList().in("table", table()).in("ids", ids * 4).out("y", y()); }
};

struct EmbeddingBackwardParams : EmbeddingParams {
  BufferList buffers() const {
    return BufferList().in("dy", y()).in("ids", ids * 4).optional("addend", table()).out("dtable", table());
  }
};

HADAL_CONTRACT(embedding, "embedding", EmbeddingParams, ids, vocabulary, dim, dtypeTable, dtypeY);
HADAL_CONTRACT(embeddingBackward, "embedding-backward", EmbeddingBackwardParams, ids, vocabulary, dim, dtypeTable,
               dtypeY);

}  // namespace
}  // namespace hadal
