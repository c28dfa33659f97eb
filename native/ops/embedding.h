// Embedding: y[n] = table[ids[n]], and its transpose, dtable[v] = Σ_{n: ids[n] = v} dy[n] (in the order of n, fp32).
// V vocabulary, D features, N ids. table_VD, dtable_VD, y_ND, dy_ND in dtype; ids_N int32.
// Bytes: forward reads N·D + 4N, writes N·D. Backward reads N·D + 4N, writes V·D.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct EmbeddingParams {
  int64_t ids, vocabulary, dim;
  DType dtype;

  const char* check() const {
    if (ids < 0 || ids > INT32_MAX || vocabulary < 0 || vocabulary > INT32_MAX || dim < 1)
      return "expected ids and vocabulary from 0 to 2^31 - 1 and dim >= 1";
    if (!sizeFits(dim, 4) || !sizeFits(ids, dim, 4) || !sizeFits(vocabulary, dim, 4))
      return "expected ids * dim and vocabulary * dim to fit in 56 bits";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t rowBytes() const { return dim * bytesOf(dtype); }
  BufferList buffers() const {
    return BufferList().in("table", vocabulary * rowBytes()).in("ids", ids * 4).out("y", ids * rowBytes());
  }
};

struct EmbeddingBackwardParams : EmbeddingParams {
  BufferList buffers() const {
    return BufferList().in("dy", ids * rowBytes()).in("ids", ids * 4).out("dtable", vocabulary * rowBytes());
  }
};

HADAL_CONTRACT(embedding, "embedding", EmbeddingParams, ids, vocabulary, dim, dtype);
HADAL_CONTRACT(embeddingBackward, "embedding-backward", EmbeddingBackwardParams, ids, vocabulary, dim, dtype);

}  // namespace
}  // namespace hadal
