// Formulas, shapes, bytes: native/ops/reduce.h. Long sums are cut into chunks whose lengths the shape alone decides; the results of
// chunks, in the workspace, are reduced by the same kernels in a second pass: the same bits on every GPU.
#include "ops/reduce.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace reduce_kernels {

// ---- What is the same for all kernels

// Numbers are combined as fp32, int32 as they are: sums wrap as those in 64 bits that are cut off at the end.
template <class T>
using Accumulated = std::conditional_t<std::is_same_v<T, int32_t>, int32_t, float>;

__device__ __forceinline__ float combine(Reduction kind, float total, float x) {
  if (kind == Reduction::maximum) return x != x || total < x ? x : total;
  return total + (kind == Reduction::sumOfSquares ? x * x : x);
}
__device__ __forceinline__ int32_t combine(Reduction kind, int32_t total, int32_t x) {
  if (kind == Reduction::maximum) return total < x ? x : total;
  return static_cast<int32_t>(static_cast<uint32_t>(total) + static_cast<uint32_t>(x));
}
// Results of parts are not squared again.
__host__ __device__ constexpr Reduction merging(Reduction kind) {
  return kind == Reduction::maximum ? kind : Reduction::sum;
}
template <class A>
__device__ __forceinline__ A start(Reduction kind) {
  if (kind != Reduction::maximum) return A{0};
  if constexpr (std::is_same_v<A, float>)
    return -INFINITY;
  else
    return INT32_MIN;
}

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(Bf16 x) { return toFloat(x); }
__device__ __forceinline__ float widen(F16 x) { return toFloat(x); }
__device__ __forceinline__ int32_t widen(int32_t x) { return x; }

// One pass: chunks of a reduction over R of x_ORI. `out` is the result, or partial results [O, chunks, I].
struct Pass {
  int64_t outer, reduced, inner, chunk, chunks;
  Reduction kind;
  bool isLast;
  float scale;
  DType outputType;
  const int32_t* extent;  // null, or how many times extentUnit of R count
  int64_t extentUnit;
  Divider perRow = {};  // chunks
  int64_t tiles = 1;    // of columns
  Divider perChunk = {};
};

// Entries of R that count; none where the extent is wrong.
__device__ __forceinline__ int64_t countOf(const Pass& p, FaultSite faults) {
  if (!p.extent) return p.reduced;
  const int64_t used = *p.extent, count = used * p.extentUnit;
  if (used >= 0 && count <= p.reduced && p.outer == 1) return count;
  faults.report(used);
  return 0;
}

__device__ __forceinline__ void put(const Pass& p, void* out, int64_t at, float x) {
  const float y[1] = {p.isLast ? x * p.scale : x};
  storeNumbers(out, p.outputType, at, 1, false, y);
}
__device__ __forceinline__ void put(const Pass&, void* out, int64_t at, int32_t x) {
  static_cast<int32_t*>(out)[at] = x;
}

// ---- I = 1. A warp takes a chunk of a row of up to 1024 numbers, a block one of up to 8192: 32 numbers a thread.

constexpr int64_t warpChunk = 1024, blockChunk = 8192;

template <class A>
struct RowsShared {
  A warps[threads / warpSize];
};

template <class T>
__device__ void rows(const Pass& p, int chunkThreads, const T* x, void* out, bool isWide, FaultSite faults) {
  using A = Accumulated<T>;
  constexpr int n = packed<T>;
  auto& s = shared<RowsShared<A>>();
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / chunkThreads;
  if (i >= p.outer * p.chunks) return;
  int64_t chunk;
  const int64_t row = p.perRow.divide(i, chunk), count = countOf(p, faults);
  const int64_t begin = chunk * p.chunk, end = begin + p.chunk < count ? begin + p.chunk : count;
  const int thread = static_cast<int>(threadIdx.x) % chunkThreads;
  A total = start<A>(p.kind);
#pragma unroll 2
  for (int64_t at = begin + thread * n; at < end; at += chunkThreads * n) {
    const bool isWhole = isWide && end - at >= n;
    const Pack<T, n> pack = loadPack<T, n>(x + row * p.reduced + at, end - at, isWhole);
#pragma unroll
    for (int j = 0; j < n; j++)
      if (isWhole || at + j < end) total = combine(p.kind, total, widen(pack.at[j]));
  }
  const Reduction merge = merging(p.kind);
  for (int width = warpSize / 2; width > 0; width /= 2)
    total = combine(merge, total, static_cast<A>(__shfl_xor_sync(wholeWarp, total, width)));
  if (chunkThreads > warpSize) {
    if (laneId() == 0) s.warps[warpId()] = total;
    __syncthreads();
    total = start<A>(merge);
    for (int w = 0; w < threads / warpSize; w++) total = combine(merge, total, s.warps[w]);
  }
  if (thread == 0) put(p, out, i, total);
}

// ---- I > 1. A warp takes one pack (or one number) a lane of each row; the warps of a block take rows in turn.

template <class T, int n>
__device__ void columns(const Pass& p, const T* x, void* out, FaultSite faults) {
  using A = Accumulated<T>;
  constexpr int warps = threads / warpSize;
  auto& s = shared<A[warps][n][warpSize]>();
  const int64_t units = p.outer * p.chunks * p.tiles, count = countOf(p, faults);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    int64_t tile, chunk;
    const int64_t rowChunk = p.perChunk.divide(unit, tile), row = p.perRow.divide(rowChunk, chunk);
    const int64_t column = (tile * warpSize + laneId()) * n;
    const int64_t begin = chunk * p.chunk, end = begin + p.chunk < count ? begin + p.chunk : count;
    A totals[n];
#pragma unroll
    for (int j = 0; j < n; j++) totals[j] = start<A>(p.kind);
    if (column < p.inner) {
#pragma unroll 4
      for (int64_t r = begin + warpId(); r < end; r += warps) {
        const Pack<T, n> pack = loadPack<T, n>(x + (row * p.reduced + r) * p.inner + column, n, true);
#pragma unroll
        for (int j = 0; j < n; j++) totals[j] = combine(p.kind, totals[j], widen(pack.at[j]));
      }
    }
#pragma unroll
    for (int j = 0; j < n; j++) s[warpId()][j][laneId()] = totals[j];
    __syncthreads();
    // A warp adds what the warps have of every eighth column.
    for (int j = warpId(); j < n; j += warps) {
      A total = start<A>(merging(p.kind));
      for (int w = 0; w < warps; w++) total = combine(merging(p.kind), total, s[w][j][laneId()]);
      if (column < p.inner) put(p, out, rowChunk * p.inner + column + j, total);
    }
    __syncthreads();
  }
}

// ---- Passes

// Entries of R that a first pass takes at once. Columns: 128 or more, so that partial results are a small part of all bytes,
// and 512 chunks at most, which a second pass reads in one go.
int64_t chunkOf(int64_t reduced, int64_t inner) {
  if (inner == 1) return blockChunk;
  const int64_t share = (reduced + 511) / 512;
  return share < 128 ? 128 : share;
}
int64_t chunksOf(int64_t reduced, int64_t inner) {
  const int64_t chunk = chunkOf(reduced, inner), chunks = (reduced + chunk - 1) / chunk;
  return chunks < 1 ? 1 : chunks;
}

int64_t workspace(const ReduceParams& p, int) {
  const int64_t chunks = chunksOf(p.reduced, p.inner);
  return chunks > 1 ? p.outer * chunks * p.inner * 4 : 0;
}

template <class T>
void runPass(Pass p, const T* x, void* out, RunContext& context) {
  using A = Accumulated<T>;
  p.perRow = Divider(p.chunks);
  if (p.inner == 1) {
    const bool isWide = isAligned(x, 16) && p.reduced % packed<T> == 0;
    const int chunkThreads = p.chunks == 1 && p.reduced <= warpChunk ? warpSize : threads;
    return launch<rows<T>, threads>(
        context, {.x = blocksFor(p.outer * p.chunks, threads / chunkThreads), .sharedBytes = sizeof(RowsShared<A>)}, p,
        chunkThreads, x, out, isWide, faultsOf(context));
  }
  const auto launchColumns = [&](auto width) {
    constexpr int n = width.value;
    p.tiles = (p.inner + warpSize * n - 1) / (warpSize * n), p.perChunk = Divider(p.tiles);
    launch<columns<T, n>, threads>(
        context, {.x = blocksFor(p.outer * p.chunks * p.tiles, 1), .sharedBytes = sizeof(A) * threads * n}, p, x, out,
        faultsOf(context));
  };
  // Packs leave lanes without work where there are not 32 in a row.
  if (isAligned(x, 16) && p.inner % packed<T> == 0 && p.inner >= warpSize * packed<T>)
    return launchColumns(std::integral_constant<int, packed<T>>{});
  launchColumns(std::integral_constant<int, 1>{});
}

template <class T>
void runPasses(const ReduceParams& p, void* const* b, RunContext& context) {
  using A = Accumulated<T>;
  const int64_t chunks = chunksOf(p.reduced, p.inner);
  const bool isOnly = chunks == 1;
  Pass pass{.outer = p.outer,
            .reduced = p.reduced,
            .inner = p.inner,
            .chunk = chunkOf(p.reduced, p.inner),
            .chunks = chunks,
            .kind = static_cast<Reduction>(p.reduction),
            .isLast = isOnly,
            .scale = static_cast<float>(p.scale),
            .outputType = isOnly ? p.outputType : DType::fp32,
            .extent = static_cast<const int32_t*>(b[1]),
            .extentUnit = p.extentUnit};
  runPass(pass, static_cast<const T*>(b[0]), isOnly ? b[2] : context.workspace, context);
  if (isOnly) return;
  pass.reduced = pass.chunk = chunks, pass.chunks = 1, pass.isLast = true, pass.extent = nullptr;
  pass.kind = merging(pass.kind), pass.outputType = p.outputType;
  runPass(pass, static_cast<const A*>(context.workspace), b[2], context);
}

void run(const ReduceParams& p, void* const* b, RunContext& context) {
  if (p.dtype == DType::int32) {
    ReduceParams sum = p;  // of int32 there are no squares
    if (static_cast<Reduction>(p.reduction) != Reduction::maximum) sum.reduction = static_cast<int64_t>(Reduction::sum);
    return runPasses<int32_t>(sum, b, context);
  }
  dispatch(p.dtype, [&](auto t) { runPasses<decltype(t)>(p, b, context); });
}

void explain(const ReduceParams&, const Fault& fault, RunContext& context) {
  context.fail("[reduce] extent %lld is out of range", static_cast<long long>(fault.numbers[0]));
}

}  // namespace reduce_kernels

HADAL_KERNEL_WITH_FAULTS(reduce, ReduceParams, reduce_kernels::run, reduce_kernels::workspace, reduce_kernels::explain)

}  // namespace cuda
}  // namespace hadal
