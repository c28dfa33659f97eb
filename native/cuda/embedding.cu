// Formulas, shapes, bytes: native/ops/embedding.h. A thread moves eight numbers of a row, 16 bytes of 16-bit ones. Backward sorts the
// ids by counting; then a warp sums 256 columns of a table row over the row's ids, in their order.
#include "ops/embedding.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace embedding_kernels {

constexpr int n = 8;

int64_t packsOf(const EmbeddingParams& p) { return (p.dim + n - 1) / n; }
// Whether rows of both dtypes can be moved 16 bytes at a time.
bool isWideRow(const EmbeddingParams& p, const void* a, const void* b, const void* c = nullptr) {
  return p.dim % n == 0 && isAligned(a, 16) && isAligned(b, 16) && isAligned(c, 16);
}

__device__ void forward(EmbeddingParams p, Divider packs, const void* table, const int32_t* ids, void* y, bool isWide,
                        FaultSite faults) {
  int64_t pack;
  const int64_t row = packs.divide(static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, pack);
  if (row >= p.ids) return;
  const int64_t id = ids[row], i = pack * n, left = p.dim - i;
  float x[n] = {};
  if (id >= 0 && id < p.vocabulary)
    loadNumbers(x, table, p.dtypeTable, id * p.dim + i, left, isWide);
  else
    faults.report(id);
  storeNumbers(y, p.dtypeY, row * p.dim + i, left, isWide, x);
}

void run(const EmbeddingParams& p, void* const* b, RunContext& context) {
  const int64_t packs = packsOf(p);
  launch<forward, threads>(context, {.x = blocksFor(p.ids * packs, threads)}, p, Divider(packs),
                           static_cast<const void*>(b[0]), static_cast<const int32_t*>(b[1]), b[2],
                           isWideRow(p, b[0], b[2]), faultsOf(context));
}

// ---- Backward. Where a row's ids lie in `places` depends on the order of threads, but not which they are; each then finds its
// place among them by counting those before it. That takes the square of a row's ids, all from L1: for ids as language has
// them far less than the sums.

struct Sorting {
  int32_t* cursor = nullptr;  // [1] how much of `places` is taken
  int32_t* counts = nullptr;  // [V] ids of a row
  int32_t* ends = nullptr;    // [V] where a row's part of `places` begins, and in the end where it ends
  int32_t* places = nullptr;  // [N] places of ids, rows together
  int32_t* order = nullptr;   // [N] the same, in order within each row
};
int64_t backwardWorkspace(const EmbeddingParams& p, int) { return (1 + 2 * p.vocabulary + 2 * p.ids) * 4; }

__device__ __forceinline__ int64_t globalThread() { return static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; }

__device__ void clear(EmbeddingParams p, Sorting s) {
  const int64_t v = globalThread();
  if (v == 0) *s.cursor = 0;
  if (v < p.vocabulary) s.counts[v] = 0;
}
__device__ void count(EmbeddingParams p, Sorting s, const int32_t* ids, FaultSite faults) {
  const int64_t i = globalThread();
  if (i >= p.ids) return;
  const int32_t id = ids[i];
  if (id >= 0 && id < p.vocabulary)
    atomicAdd(&s.counts[id], 1);
  else
    faults.report(id);
}
// A part of `places` for each row, a warp's rows together.
__device__ void allot(EmbeddingParams p, Sorting s) {
  const int64_t v = globalThread();
  const int32_t own = v < p.vocabulary ? s.counts[v] : 0;
  int32_t sum = own;  // of the lanes up to this one
  for (int width = 1; width < warpSize; width *= 2) {
    const int32_t before = __shfl_up_sync(wholeWarp, sum, static_cast<unsigned>(width));
    if (laneId() >= width) sum += before;
  }
  int32_t begin = 0;
  if (laneId() == warpSize - 1 && sum > 0) begin = atomicAdd(s.cursor, sum);
  begin = __shfl_sync(wholeWarp, begin, warpSize - 1);
  if (v < p.vocabulary) s.ends[v] = begin + sum - own;
}
__device__ void scatter(EmbeddingParams p, Sorting s, const int32_t* ids) {
  const int64_t i = globalThread();
  if (i >= p.ids) return;
  const int32_t id = ids[i];
  if (id >= 0 && id < p.vocabulary) s.places[atomicAdd(&s.ends[id], 1)] = static_cast<int32_t>(i);
}
__device__ void arrange(EmbeddingParams p, Sorting s, const int32_t* ids) {
  const int64_t i = globalThread();
  if (i >= p.ids) return;
  const int32_t id = ids[i];
  if (id < 0 || id >= p.vocabulary) return;
  const int32_t end = s.ends[id], begin = end - s.counts[id];
  int32_t rank = 0;
#pragma unroll 4
  for (int32_t k = begin; k < end; k++) rank += s.places[k] < i ? 1 : 0;
  s.order[begin + rank] = static_cast<int32_t>(i);
}

// dtable may be the memory of addend; rows without ids are not touched then.
template <class Y>
__device__ void sumRows(EmbeddingParams p, Sorting s, Divider packs, const Y* dy, const void* addend, void* dtable,
                        bool isWide) {
  int64_t pack;
  const int64_t row = packs.divide(globalThread(), pack);
  if (row >= p.vocabulary) return;
  const int32_t end = s.ends[row], begin = end - s.counts[row];
  if (begin == end && addend == dtable) return;
  const int64_t i = pack * n, at = row * p.dim + i, left = p.dim - i;
  float total[n] = {};
  if (addend) loadNumbers(total, addend, p.dtypeTable, at, left, isWide);
#pragma unroll 4
  for (int32_t k = begin; k < end; k++) {
    float x[n];
    loadNumbers(x, dy + s.order[k] * p.dim + i, left, isWide);
#pragma unroll
    for (int j = 0; j < n; j++) total[j] += x[j];
  }
  storeNumbers(dtable, p.dtypeTable, at, left, isWide, total);
}

void runBackward(const EmbeddingBackwardParams& p, void* const* b, RunContext& context) {
  const auto* const ids = static_cast<const int32_t*>(b[1]);
  Sorting s{.cursor = static_cast<int32_t*>(context.workspace)};
  s.counts = s.cursor + 1, s.ends = s.counts + p.vocabulary;
  s.places = s.ends + p.vocabulary, s.order = s.places + p.ids;
  const EmbeddingParams& params = p;
  const Grid ofRows{.x = blocksFor(p.vocabulary, threads)}, ofIds{.x = blocksFor(p.ids, threads)};
  launch<clear, threads>(context, ofRows, params, s);
  launch<count, threads>(context, ofIds, params, s, ids, faultsOf(context));
  launch<allot, threads>(context, ofRows, params, s);
  launch<scatter, threads>(context, ofIds, params, s, ids);
  launch<arrange, threads>(context, ofIds, params, s, ids);
  dispatch(p.dtypeY, [&](auto y) {
    using Y = decltype(y);
    const int64_t packs = packsOf(p);
    launch<sumRows<Y>, threads>(context, {.x = blocksFor(p.vocabulary * packs, threads)}, params, s, Divider(packs),
                                static_cast<const Y*>(b[0]), static_cast<const void*>(b[2]), b[3],
                                isWideRow(p, b[0], b[2], b[3]));
  });
}

int64_t noWorkspace(const EmbeddingParams&, int) { return 0; }

void explain(const EmbeddingParams& p, const Fault& fault, RunContext& context) {
  context.fail("[embedding] expected ids from 0 to %lld (the table has %lld rows), got %lld",
               static_cast<long long>(p.vocabulary - 1), static_cast<long long>(p.vocabulary),
               static_cast<long long>(fault.numbers[0]));
}

}  // namespace embedding_kernels

HADAL_KERNEL_WITH_FAULTS(embedding, EmbeddingParams, embedding_kernels::run, embedding_kernels::noWorkspace,
                         embedding_kernels::explain)
HADAL_KERNEL_WITH_FAULTS(embeddingBackward, EmbeddingBackwardParams, embedding_kernels::runBackward,
                         embedding_kernels::backwardWorkspace, embedding_kernels::explain)

}  // namespace cuda
}  // namespace hadal
