#include "ops/embedding.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

HADAL_INLINE bool isInTable(const EmbeddingParams& p, int32_t id) { return id >= 0 && id < p.vocabulary; }

HADAL_INLINE void failOnId(const EmbeddingParams& p, int32_t id, RunContext& context) {
  context.fail("[embedding] expected ids from 0 to %lld (the table has %lld rows), got %d",
               static_cast<long long>(p.vocabulary - 1), static_cast<long long>(p.vocabulary), static_cast<int>(id));
}

void forward(const EmbeddingParams& p, void* const* buffers, RunContext& context) {
  const int64_t bytes = p.rowBytes();
  const char* table = static_cast<const char*>(buffers[0]);
  const int32_t* ids = static_cast<const int32_t*>(buffers[1]);
  char* y = static_cast<char*>(buffers[2]);
  parallelFor(p.ids, context.threads, 1 + 65536 / bytes, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; n++) {
      if (isInTable(p, ids[n])) {
        std::memcpy(y + n * bytes, table + ids[n] * bytes, static_cast<size_t>(bytes));
      } else {
        std::memset(y + n * bytes, 0, static_cast<size_t>(bytes));
        failOnId(p, ids[n], context);
      }
    }
  });
}

// Workspace: starts int32 [V + 1], where in `order` each table row's ids begin; order int32 [N], the ids' places sorted
// by id. One thread sums a table row, so that neither threads nor the order of work show in the bits.
int64_t backwardWorkspace(const EmbeddingParams& p, int) { return (p.vocabulary + 1 + p.ids) * 4; }

void sortIds(const EmbeddingParams& p, const int32_t* ids, int32_t* starts, int32_t* order, RunContext& context) {
  std::memset(starts, 0, static_cast<size_t>(p.vocabulary + 1) * 4);
  for (int64_t n = 0; n < p.ids; n++) {
    if (isInTable(p, ids[n]))
      starts[ids[n]]++;
    else
      failOnId(p, ids[n], context);
  }
  for (int64_t v = 1; v <= p.vocabulary; v++) starts[v] += starts[v - 1];
  // Backwards: each count steps down to its start, and equal ids keep their order.
  for (int64_t n = p.ids - 1; n >= 0; n--)
    if (isInTable(p, ids[n])) order[--starts[ids[n]]] = static_cast<int32_t>(n);
}

// First table row whose work (itself and the ids of the rows before it) is not below `work`.
int64_t rowAtWork(const int32_t* starts, int64_t vocabulary, int64_t work) {
  int64_t low = 0, high = vocabulary;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (middle + starts[middle] < work)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

void backward(const EmbeddingBackwardParams& p, void* const* buffers, RunContext& context) {
  int32_t* starts = static_cast<int32_t*>(context.workspace);
  int32_t* order = starts + p.vocabulary + 1;
  sortIds(p, static_cast<const int32_t*>(buffers[1]), starts, order, context);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const T* dy = static_cast<const T*>(buffers[0]);
    const int64_t work = p.vocabulary + starts[p.vocabulary];
    parallelFor(work, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
      const int64_t last = end == work ? p.vocabulary : rowAtWork(starts, p.vocabulary, end);
      for (int64_t v = rowAtWork(starts, p.vocabulary, begin); v < last; v++) {
        T* out = static_cast<T*>(buffers[2]) + v * p.dim;
        if (starts[v] == starts[v + 1]) {
          std::memset(static_cast<void*>(out), 0, static_cast<size_t>(p.rowBytes()));
          continue;
        }
        forLanes(p.dim, [&](int64_t i, auto part) {
          Vec total = {};
          for (int64_t n = starts[v]; n < starts[v + 1]; n++) total += load(dy + order[n] * p.dim + i, part);
          store(out + i, part, total);
        });
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(embedding, EmbeddingParams, forward)
HADAL_KERNEL_WITH_WORKSPACE(embeddingBackward, EmbeddingBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
