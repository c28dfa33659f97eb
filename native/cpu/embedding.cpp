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
  const int32_t* ids = static_cast<const int32_t*>(buffers[1]);
  dispatch(p.dtypeTable, [&](auto table) {
    dispatch(p.dtypeY, [&](auto out) {
      using T = decltype(table);
      using Y = decltype(out);
      parallelFor(p.ids, context.threads, 1 + 65536 / p.tableRow(), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; n++) {
          Y* y = static_cast<Y*>(buffers[2]) + n * p.dim;
          const size_t bytes = static_cast<size_t>(p.dim) * sizeof(Y);
          if (!isInTable(p, ids[n])) {
            std::memset(static_cast<void*>(y), 0, bytes);
            failOnId(p, ids[n], context);
            continue;
          }
          const T* row = static_cast<const T*>(buffers[0]) + ids[n] * p.dim;
          if constexpr (std::is_same_v<T, Y>)
            std::memcpy(static_cast<void*>(y), row, bytes);
          else
            forLanes(p.dim, [&](int64_t i, auto part) { store(y + i, part, load(row + i, part)); });
        }
      });
    });
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
  int32_t end = 0;
  for (int64_t v = 0; v <= p.vocabulary; v++) starts[v] = end += starts[v];
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

// Rows [begin, end) of dtable; each is written once, where nothing is added to an addend in place not at all.
template <bool streams, class T, class Y>
void sumRows(const EmbeddingBackwardParams& p, void* const* buffers, const int32_t* starts, const int32_t* order,
             int64_t begin, int64_t end) {
  const Y* dy = static_cast<const Y*>(buffers[0]);
  const T* addend = static_cast<const T*>(buffers[2]);
  T* dtable = static_cast<T*>(buffers[3]);
  for (int64_t v = begin; v < end; v++) {
    if (addend == dtable && starts[v] == starts[v + 1]) continue;
    forLanes(p.dim, [&](int64_t i, auto part) {
      Vec total = addend ? load(addend + v * p.dim + i, part) : Vec{};
      for (int64_t n = starts[v]; n < starts[v + 1]; n++) total += load(dy + order[n] * p.dim + i, part);
      put<streams>(dtable + v * p.dim + i, part, total);
    });
  }
}

void backward(const EmbeddingBackwardParams& p, void* const* buffers, RunContext& context) {
  int32_t* starts = static_cast<int32_t*>(context.workspace);
  int32_t* order = starts + p.vocabulary + 1;
  sortIds(p, static_cast<const int32_t*>(buffers[1]), starts, order, context);
  const int64_t work = p.vocabulary + starts[p.vocabulary], written = buffers[2] == buffers[3] ? p.y() : p.table();
  dispatch(p.dtypeTable, [&](auto table) {
    dispatch(p.dtypeY, [&](auto in) {
      using T = decltype(table);
      using Y = decltype(in);
      streaming(written, canStream(buffers[3], p.tableRow()), [&](auto streams) {
        parallelFor(work, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
          const int64_t last = end == work ? p.vocabulary : rowAtWork(starts, p.vocabulary, end);
          sumRows<streams.value, T, Y>(p, buffers, starts, order, rowAtWork(starts, p.vocabulary, begin), last);
          if (streams.value) endStream();
        });
      });
    });
  });
}

}  // namespace

HADAL_KERNEL(embedding, EmbeddingParams, forward)
HADAL_KERNEL_WITH_WORKSPACE(embeddingBackward, EmbeddingBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
