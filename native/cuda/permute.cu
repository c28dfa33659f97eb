// Formulas, shapes, bytes: native/ops/permute.h.
#include "cuda/launch.cuh"
// After launch.cuh, which makes its helpers run on the device.
#include "ops/permute.h"

namespace hadal {
namespace cuda {

// ---- The order. Every warp has a share of consecutive pairs. The shares' counts of each expert are summed up over the shares,
// then over the experts: where an expert's next pair of a share goes. With that every warp places its pairs, 32 at a time.
namespace expert_order {

constexpr int warps = threads / warpSize;
// So many experts are counted in shared memory, at most 32 KiB a block: three blocks fit wherever threads do. More of them are
// counted where the counts are kept.
constexpr int64_t mostShared = 1024;
// 32 sums side by side, of 32 runs of shares each: the shares are many, and each run is read one after the other.
constexpr int scanThreads = 1024, scanWarps = scanThreads / warpSize;

struct Plan {
  int64_t pairs, experts, share, shares;
  int bits;  // of expert ids
};

// 8 times 32 pairs a share: warps enough for a card from 10⁵ pairs on. Never fewer than experts, so that counts take no more
// memory than pairs.
Plan planOf(const ExpertOrderParams& p) {
  const int64_t share = ((p.experts > 256 ? p.experts : 256) + warpSize - 1) / warpSize * warpSize;
  int bits = 0;
  while (bits < 31 && p.experts - 1 >= int64_t{1} << bits) bits++;
  return {p.pairs, p.experts, share, (p.pairs + share - 1) / share, bits};
}

// Where a warp counts.
__device__ __forceinline__ int32_t* countsOf(const Plan& plan, int64_t share, int32_t* next) {
  if (plan.experts > mostShared) return next + share * plan.experts;
  return &shared<int32_t>() + warpId() * plan.experts;
}

// next_SE: pairs of each share that an expert has.
__device__ void count(Plan plan, const int32_t* experts, int32_t* next, FaultSite faults) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t share = static_cast<int64_t>(blockIdx.x) * warps + warpId(); share < plan.shares; share += step) {
    int32_t* const own = countsOf(plan, share, next);
    for (int64_t e = laneId(); e < plan.experts; e += warpSize) own[e] = 0;
    __syncwarp();
    const int64_t end = min((share + 1) * plan.share, plan.pairs);
    for (int64_t pair = share * plan.share + laneId(); pair < end; pair += warpSize) {
      const int32_t e = experts[pair];
      if (e >= 0 && e < plan.experts)
        atomicAdd(&own[e], 1);
      else if (e != -1)
        faults.report(e);
    }
    __syncwarp();
    if (plan.experts <= mostShared)
      for (int64_t e = laneId(); e < plan.experts; e += warpSize) next[share * plan.experts + e] = own[e];
    __syncwarp();
  }
}

struct ScanShared {
  int32_t sums[scanWarps][warpSize];
};

// Turns next into the pairs of earlier shares; totals_E are the pairs of all. A lane takes an expert, a warp a run of shares.
__device__ void sumShares(Plan plan, int32_t* next, int32_t* totals) {
  constexpr int batch = 8;  // loads that do not wait for the stores before them
  auto& s = shared<ScanShared>();
  const int64_t step = static_cast<int64_t>(gridDim.x) * warpSize;
  const int64_t run = (plan.shares + scanWarps - 1) / scanWarps;
  const int64_t begin = warpId() * run, end = min(begin + run, plan.shares);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * warpSize; first < plan.experts; first += step) {
    const int64_t e = first + laneId();
    const bool isExpert = e < plan.experts;
    int32_t sum = 0;
    if (isExpert)
      for (int64_t share = begin; share < end; share++) sum += next[share * plan.experts + e];
    s.sums[warpId()][laneId()] = sum;
    __syncthreads();
    int32_t before = 0;
    for (int w = 0; w < warpId(); w++) before += s.sums[w][laneId()];
    __syncthreads();
    if (!isExpert) continue;
    if (warpId() == scanWarps - 1) totals[e] = before + sum;
    for (int64_t share = begin; share < end; share += batch) {
      int32_t counts[batch];
#pragma unroll
      for (int i = 0; i < batch; i++) counts[i] = share + i < end ? next[(share + i) * plan.experts + e] : 0;
#pragma unroll
      for (int i = 0; i < batch; i++) {
        if (share + i < end) next[(share + i) * plan.experts + e] = before;
        before += counts[i];
      }
    }
  }
}

struct OffsetsShared {
  int32_t sums[scanWarps];
};

// One block: the experts are few.
__device__ void sumExperts(int64_t experts, const int32_t* totals, int32_t* offsets, int32_t* rows) {
  auto& s = shared<OffsetsShared>();
  int32_t before = 0;
  for (int64_t first = 0; first < experts; first += scanThreads) {
    const int64_t e = first + threadIdx.x;
    const int32_t total = e < experts ? totals[e] : 0;
    int32_t sum = total;  // of this lane and those below
    for (int width = 1; width < warpSize; width *= 2) {
      const int32_t below = __shfl_up_sync(wholeWarp, sum, width);
      if (laneId() >= width) sum += below;
    }
    if (laneId() == warpSize - 1) s.sums[warpId()] = sum;
    __syncthreads();
    for (int w = 0; w < warpId(); w++) sum += s.sums[w];
    if (e < experts) offsets[e] = before + sum - total;
    for (int w = 0; w < scanWarps; w++) before += s.sums[w];
    __syncthreads();
  }
  if (threadIdx.x == 0) offsets[experts] = rows[0] = before;
}

__device__ void place(Plan plan, const int32_t* experts, const int32_t* offsets, const int32_t* rows, int32_t* next,
                      int32_t* position, int32_t* source) {
  const unsigned below = (1u << laneId()) - 1;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t share = static_cast<int64_t>(blockIdx.x) * warps + warpId(); share < plan.shares; share += step) {
    int32_t* const own = countsOf(plan, share, next);
    for (int64_t e = laneId(); e < plan.experts; e += warpSize) own[e] = next[share * plan.experts + e] + offsets[e];
    __syncwarp();
    const int64_t end = min((share + 1) * plan.share, plan.pairs);
    int64_t pair = share * plan.share + laneId();
    int32_t following = pair < end ? experts[pair] : -1;
    for (int64_t first = share * plan.share; first < end; first += warpSize, pair += warpSize) {
      const int32_t e = following;
      following = pair + warpSize < end ? experts[pair + warpSize] : -1;
      const bool isRouted = e >= 0 && e < plan.experts;
      unsigned peers = __ballot_sync(wholeWarp, isRouted);  // lanes of the same expert
      for (int bit = 0; bit < plan.bits; bit++) {
        const bool isSet = (e >> bit & 1) != 0;
        const unsigned set = __ballot_sync(wholeWarp, isSet);
        peers &= isSet ? set : ~set;
      }
      const int rank = __popc(peers & below);
      const int32_t row = isRouted ? own[e] + rank : -1;
      __syncwarp();
      if (isRouted && rank == 0) own[e] += __popc(peers);
      __syncwarp();
      if (pair < end) position[pair] = row;
      if (isRouted) source[row] = static_cast<int32_t>(pair);
      if (pair < end && pair >= rows[0]) source[pair] = 0;
    }
  }
}

int64_t bytesOfCounts(const Plan& plan) { return (plan.shares * plan.experts * 4 + 63) / 64 * 64; }
int64_t workspace(const ExpertOrderParams& p, int) { return bytesOfCounts(planOf(p)) + p.experts * 4; }

void run(const ExpertOrderParams& p, void* const* b, RunContext& context) {
  const Plan plan = planOf(p);
  const int32_t* const experts = static_cast<const int32_t*>(b[0]);
  int32_t* const offsets = static_cast<int32_t*>(b[1]);
  int32_t* const rows = static_cast<int32_t*>(b[4]);
  int32_t* const next = static_cast<int32_t*>(context.workspace);
  int32_t* const totals = reinterpret_cast<int32_t*>(static_cast<char*>(context.workspace) + bytesOfCounts(plan));
  const Grid shares{.x = blocksFor(plan.shares, warps),
                    .sharedBytes = plan.experts > mostShared ? 0 : static_cast<size_t>(plan.experts) * warps * 4};
  launch<count, threads>(context, shares, plan, experts, next, faultsOf(context));
  launch<sumShares, scanThreads>(context, {.x = blocksFor(plan.experts, warpSize), .sharedBytes = sizeof(ScanShared)},
                                 plan, next, totals);
  launch<sumExperts, scanThreads>(context, {.sharedBytes = sizeof(OffsetsShared)}, plan.experts,
                                  static_cast<const int32_t*>(totals), offsets, rows);
  launch<place, threads>(context, shares, plan, experts, static_cast<const int32_t*>(offsets),
                         static_cast<const int32_t*>(rows), next, static_cast<int32_t*>(b[2]),
                         static_cast<int32_t*>(b[3]));
}

void explain(const ExpertOrderParams& p, const Fault& fault, RunContext& context) {
  context.fail("[permute] expected experts from -1 to %lld, got %d", static_cast<long long>(p.experts - 1),
               static_cast<int>(fault.numbers[0]));
}

}  // namespace expert_order

// ---- Rows. A warp takes a row, in vectors of 16 bytes where a row is a whole number of them. How many rows are in use is known
// on the device only: the grid is for all, and the warps of others have nothing to do.
namespace permute_rows {

constexpr int rowsABlock = threads / warpSize;
// Loads of a lane under way at the same time: 2 KiB a warp, a few times what covers the latency of memory.
constexpr int batch = 4;

template <class T, int items>
__device__ __forceinline__ void scale(Pack<T, items>& x, float weight) {
#pragma unroll
  for (int i = 0; i < items; i++) x.at[i] = fromFloat<T>(toFloat(x.at[i]) * weight);
}

__device__ __forceinline__ int64_t firstRow() { return static_cast<int64_t>(blockIdx.x) * rowsABlock + warpId(); }
__device__ __forceinline__ int64_t rowStep() { return static_cast<int64_t>(gridDim.x) * rowsABlock; }

__device__ __forceinline__ int64_t rowsInUse(int64_t pairs, const int32_t* rows) {
  return min(static_cast<int64_t>(*rows), pairs);
}

// An index that the order did not give must not lead beyond the buffers.
__device__ __forceinline__ bool isInRange(int32_t index, int64_t pairs, FaultSite faults) {
  if (index >= 0 && index < pairs) return true;
  faults.report(index);
  return false;
}

// Sizes as the device wants them: `width` vectors a row.
struct Sizes {
  int64_t tokens, pairs, width;
  uint32_t topK;
};

template <class T, int items>
__device__ void gather(Sizes p, const Pack<T, items>* __restrict__ x, const float* weights, const int32_t* source,
                       const int32_t* rows, Pack<T, items>* __restrict__ y, FaultSite faults) {
  const int64_t inUse = rowsInUse(p.pairs, rows);
  for (int64_t row = firstRow(); row < inUse; row += rowStep()) {
    const int32_t pair = source[row];
    if (!isInRange(pair, p.pairs, faults)) continue;
    const float weight = weights ? weights[pair] : 1;
    const Pack<T, items>* const from = x + static_cast<uint32_t>(pair) / p.topK * p.width;
    Pack<T, items>* const to = y + row * p.width;
    for (int64_t first = laneId(); first < p.width; first += batch * warpSize) {
      Pack<T, items> held[batch] = {};
#pragma unroll
      for (int j = 0; j < batch; j++)
        if (first + j * warpSize < p.width) held[j] = from[first + j * warpSize];
#pragma unroll
      for (int j = 0; j < batch; j++) {
        if (weights) scale(held[j], weight);
        if (first + j * warpSize < p.width) to[first + j * warpSize] = held[j];
      }
    }
  }
}

// A warp a token; up to `batch` of its rows are on their way while none is added.
template <class T, int items>
__device__ void sumRows(Sizes p, const Pack<T, items>* __restrict__ y, const float* __restrict__ weights,
                        const int32_t* __restrict__ positions, Pack<T, items>* __restrict__ x, FaultSite faults) {
  for (int64_t token = firstRow(); token < p.tokens; token += rowStep()) {
    const int32_t* const position = positions + token * p.topK;
    const float* const weight = weights ? weights + token * p.topK : nullptr;
    bool isUsable = true;
    for (uint32_t k = static_cast<uint32_t>(laneId()); k < p.topK; k += warpSize)
      if (position[k] != -1) isUsable &= isInRange(position[k], p.pairs, faults);
    if (!__all_sync(wholeWarp, isUsable)) continue;
    for (int64_t i = laneId(); i < p.width; i += warpSize) {
      float total[items] = {};
      for (uint32_t first = 0; first < p.topK; first += batch) {
        Pack<T, items> held[batch] = {};
        int32_t row[batch];
#pragma unroll
        for (int j = 0; j < batch; j++) row[j] = first + j < p.topK ? position[first + j] : -1;
#pragma unroll
        for (int j = 0; j < batch; j++)
          if (row[j] >= 0) held[j] = y[row[j] * p.width + i];
#pragma unroll
        for (int j = 0; j < batch; j++) {
          if (row[j] < 0) continue;
          const float w = weight ? weight[first + j] : 1;
#pragma unroll
          for (int l = 0; l < items; l++) total[l] = fmaf(toFloat(held[j].at[l]), w, total[l]);
        }
      }
      Pack<T, items> sum;
#pragma unroll
      for (int l = 0; l < items; l++) sum.at[l] = fromFloat<T>(total[l]);
      x[token * p.width + i] = sum;
    }
  }
}

// Dots of pairs that have no row are 0: all of them are where a row is not in use.
__device__ void clearDots(int64_t pairs, const int32_t* rows, float* dots) {
  if (*rows >= pairs) return;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < pairs; i += step) dots[i] = 0;
}

// In the order of the experts' rows, which are the many. With `scales`, dy = weight · x, which may be y's memory.
template <bool scales, class T, int items>
__device__ void dotRows(Sizes p, const Pack<T, items>* __restrict__ x, const Pack<T, items>* y, const float* weights,
                        const int32_t* source, const int32_t* rows, Pack<T, items>* dy, float* dots, FaultSite faults) {
  const int64_t inUse = rowsInUse(p.pairs, rows);
  for (int64_t row = firstRow(); row < inUse; row += rowStep()) {
    const int32_t pair = source[row];
    if (!isInRange(pair, p.pairs, faults)) continue;
    const float weight = scales ? weights[pair] : 1;
    const int64_t from = static_cast<uint32_t>(pair) / p.topK * p.width, at = row * p.width;
    float dot = 0;
    for (int64_t first = laneId(); first < p.width; first += batch * warpSize) {
      Pack<T, items> a[batch] = {}, b[batch] = {};
#pragma unroll
      for (int j = 0; j < batch; j++) {
        const int64_t i = first + j * warpSize;
        if (i < p.width) a[j] = x[from + i], b[j] = y[at + i];
      }
#pragma unroll
      for (int j = 0; j < batch; j++) {
#pragma unroll
        for (int l = 0; l < items; l++) dot = fmaf(toFloat(a[j].at[l]), toFloat(b[j].at[l]), dot);
        const int64_t i = first + j * warpSize;
        if constexpr (scales) {
          scale(a[j], weight);
          if (i < p.width) dy[at + i] = a[j];
        }
      }
    }
    dot = warpSum(dot);
    if (laneId() == 0) dots[pair] = dot;
  }
}

Sizes sizesOf(const PermuteParams& p, int64_t items) {
  return {p.tokens, p.pairs(), p.dim / items, static_cast<uint32_t>(p.topK)};
}

// Calls f with a vector of the rows' numbers, as long as their size and addresses allow.
template <class F>
void withVectors(const PermuteParams& p, const void* a, const void* b, const void* c, F&& f) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    if (p.dim % packed<T> == 0 && isAligned(a, 16) && isAligned(b, 16) && isAligned(c, 16))
      return f(Pack<T, packed<T>>{});
    f(Pack<T, 1>{});
  });
}

template <class P>
int64_t noWorkspace(const P&, int) {
  return 0;
}
template <class P>
void explain(const P& p, const Fault& fault, RunContext& context) {
  context.fail("[permute] expected an index from 0 to %lld, got %d; use the results of expertOrder as they are",
               static_cast<long long>(p.pairs() - 1), static_cast<int>(fault.numbers[0]));
}

void runPermute(const PermuteParams& p, void* const* b, RunContext& context) {
  withVectors(p, b[0], b[4], nullptr, [&]<class T, int items>(Pack<T, items>) {
    launch<gather<T, items>, threads>(context, {.x = blocksFor(p.pairs(), rowsABlock)}, sizesOf(p, items),
                                      static_cast<const Pack<T, items>*>(b[0]), static_cast<const float*>(b[1]),
                                      static_cast<const int32_t*>(b[2]), static_cast<const int32_t*>(b[3]),
                                      static_cast<Pack<T, items>*>(b[4]), faultsOf(context));
  });
}

void runUnpermute(const UnpermuteParams& p, void* const* b, RunContext& context) {
  withVectors(p, b[0], b[3], nullptr, [&]<class T, int items>(Pack<T, items>) {
    launch<sumRows<T, items>, threads>(context, {.x = blocksFor(p.tokens, rowsABlock)}, sizesOf(p, items),
                                       static_cast<const Pack<T, items>*>(b[0]), static_cast<const float*>(b[1]),
                                       static_cast<const int32_t*>(b[2]), static_cast<Pack<T, items>*>(b[3]),
                                       faultsOf(context));
  });
}

template <bool scales>
void runDots(const PermuteParams& p, const void* x, const void* y, const void* weights, const void* source,
             const void* rows, void* dy, void* dots, RunContext& context) {
  launch<clearDots, threads>(context, {.x = blocksFor(p.pairs(), threads)}, p.pairs(),
                             static_cast<const int32_t*>(rows), static_cast<float*>(dots));
  withVectors(p, x, y, dy, [&]<class T, int items>(Pack<T, items>) {
    using Vector = Pack<T, items>;
    launch<dotRows<scales, T, items>, threads>(
        context, {.x = blocksFor(p.pairs(), rowsABlock)}, sizesOf(p, items), static_cast<const Vector*>(x),
        static_cast<const Vector*>(y), static_cast<const float*>(weights), static_cast<const int32_t*>(source),
        static_cast<const int32_t*>(rows), static_cast<Vector*>(dy), static_cast<float*>(dots), faultsOf(context));
  });
}

void runDot(const PermuteDotParams& p, void* const* b, RunContext& context) {
  runDots<false>(p, b[0], b[1], nullptr, b[2], b[3], nullptr, b[4], context);
}

void runUnpermuteBackward(const UnpermuteBackwardParams& p, void* const* b, RunContext& context) {
  runDots<true>(p, b[0], b[1], b[2], b[3], b[4], b[5], b[6], context);
}

}  // namespace permute_rows

HADAL_KERNEL_WITH_FAULTS(expertOrder, ExpertOrderParams, expert_order::run, expert_order::workspace,
                         expert_order::explain)
HADAL_KERNEL_WITH_FAULTS(permute, PermuteParams, permute_rows::runPermute, permute_rows::noWorkspace<PermuteParams>,
                         permute_rows::explain<PermuteParams>)
HADAL_KERNEL_WITH_FAULTS(unpermute, UnpermuteParams, permute_rows::runUnpermute,
                         permute_rows::noWorkspace<UnpermuteParams>, permute_rows::explain<UnpermuteParams>)
HADAL_KERNEL_WITH_FAULTS(permuteDot, PermuteDotParams, permute_rows::runDot,
                         permute_rows::noWorkspace<PermuteDotParams>, permute_rows::explain<PermuteDotParams>)
HADAL_KERNEL_WITH_FAULTS(unpermuteBackward, UnpermuteBackwardParams, permute_rows::runUnpermuteBackward,
                         permute_rows::noWorkspace<UnpermuteBackwardParams>,
                         permute_rows::explain<UnpermuteBackwardParams>)

}  // namespace cuda
}  // namespace hadal
