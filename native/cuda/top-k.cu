// Formulas, shapes, bytes: native/ops/top-k.h. Three passes count the digits of magnitudes; then blocks take tiles of 4096
// numbers, and where the numbers of a tile go follows from the counts of the tiles before it, so that places ascend as on the
// CPU. Counts are whole numbers: their order does not matter.
#include "ops/top-k.h"

#include <algorithm>

#include "cuda/residual.cuh"

namespace hadal {
namespace cuda {
namespace top_k {

constexpr int warps = threads / warpSize;
// The three digits of a magnitude (31 bits): where they begin, how many bits and at most how many values they have.
__device__ constexpr int shiftOf(int digit) { return digit == 0 ? 20 : digit == 1 ? 9 : 0; }
__device__ constexpr int bitsOf(int digit) { return digit == 2 ? 9 : 11; }
constexpr int mostValues = 2048;
// Neighbours have the same first digit more often than not: lanes count in turns, and fewer wait for each other. 32 KiB a
// block leave four of them to a multiprocessor that has 128 KiB.
constexpr int turns = 4;
// Numbers that a thread counts at once, so that loads do not wait for counting.
constexpr int64_t width = 4;

// Counts of a tile are two numbers beside 16 KiB that are read for them; a warp keeps its 512 numbers in registers.
constexpr int64_t tile = 4096;
constexpr int rounds = static_cast<int>(tile) / threads;
// Of the block that adds up the tiles.
constexpr int placeThreads = 1024;

// What is known of the k-th magnitude: its digits so far, and its rank among the numbers that have them.
struct Known {
  uint32_t prefix, left;
};

struct Workspace {
  uint32_t* counts;  // mostValues; zeros between passes
  Known* known;
  uint32_t *above, *equal;  // of each tile: numbers above the k-th and equal to it, then how many of them are before it
};

int64_t tilesOf(int64_t count) { return (count + tile - 1) / tile; }

int64_t workspaceBytes(const TopKParams& p, int) { return (mostValues + 2 + 2 * tilesOf(p.count)) * 4; }

Workspace workspaceOf(const TopKParams& p, void* memory) {
  auto* const at = static_cast<uint32_t*>(memory);
  uint32_t* const tiles = at + mostValues + 2;
  return {at, reinterpret_cast<Known*>(at + mostValues), tiles, tiles + tilesOf(p.count)};
}

__device__ void begin(Workspace work, uint32_t kept) {
  for (int i = static_cast<int>(threadIdx.x); i < mostValues; i += threads) work.counts[i] = 0;
  if (threadIdx.x == 0) *work.known = {0, kept};
}

struct Counters {
  uint32_t at[mostValues][turns];
};

template <int digit>
__device__ __forceinline__ void count(Counters& own, float x, uint32_t prefix) {
  const uint32_t bits = magnitudeBits(x);
  if (digit > 0 && bits >> shiftOf(digit - 1) != prefix) return;
  atomicAdd(&own.at[bits >> shiftOf(digit) & ((1u << bitsOf(digit)) - 1)][threadIdx.x % turns], 1u);
}

// Counts the numbers with the known digits by the next one. The first pass keeps x in `sums`, where there is such.
template <int digit>
__device__ void countDigit(int64_t numbers, WithResidual from, float* sums, bool isWide, Workspace work) {
  auto& own = shared<Counters>();
  for (int i = static_cast<int>(threadIdx.x); i < mostValues * turns; i += threads) own.at[i / turns][i % turns] = 0;
  __syncthreads();
  const uint32_t prefix = work.known->prefix;
  const float factor = from.factor();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  const int64_t wide = isWide ? numbers / width * width : 0;
  for (int64_t i = first * width; i < wide; i += step * width) {
    const auto x = from.read<width>(i, factor);
    if (sums) *reinterpret_cast<Pack<float, width>*>(sums + i) = x;
    for (const float one : x.at) count<digit>(own, one, prefix);
  }
  for (int64_t i = wide + first; i < numbers; i += step) {
    const float x = from.read<1>(i, factor).at[0];
    if (sums) sums[i] = x;
    count<digit>(own, x, prefix);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 1 << bitsOf(digit); i += threads) {
    uint32_t total = 0;
    for (const uint32_t one : own.at[i]) total += one;
    if (total != 0) atomicAdd(&work.counts[i], total);
  }
}

// Sum of x over the threads before this one; `total` over all. `shared` holds a number a warp, and may be used again at once.
template <int blockThreads>
__device__ __forceinline__ uint32_t sumBefore(uint32_t x, uint32_t* shared, uint32_t& total) {
  uint32_t upTo = x;
  for (int reach = 1; reach < warpSize; reach *= 2) {
    const uint32_t other = __shfl_up_sync(wholeWarp, upTo, reach);
    if (laneId() >= reach) upTo += other;
  }
  if (laneId() == warpSize - 1) shared[warpId()] = upTo;
  __syncthreads();
  uint32_t before = upTo - x;
  total = 0;
  for (int w = 0; w < blockThreads / warpSize; w++) {
    if (w < warpId()) before += shared[w];
    total += shared[w];
  }
  __syncthreads();
  return before;
}

// The digit that the magnitude of rank `left` has. A block: thread t has the values that come t-th from above.
template <int digit>
__device__ void chooseDigit(Workspace work) {
  constexpr int values = 1 << bitsOf(digit), each = values / threads;
  const Known known = *work.known;
  uint32_t counts[each], own = 0, total;
  const int top = values - 1 - static_cast<int>(threadIdx.x) * each;
  for (int k = 0; k < each; k++) {
    counts[k] = work.counts[top - k];
    work.counts[top - k] = 0;
    own += counts[k];
  }
  // No thread sees the new digit as the known one: sumBefore ends with a barrier.
  uint32_t before = sumBefore<threads>(own, shared<uint32_t[warps]>(), total);
  for (int k = 0; k < each; k++) {
    if (before < known.left && known.left <= before + counts[k])
      *work.known = {known.prefix << bitsOf(digit) | static_cast<uint32_t>(top - k), known.left - before};
    before += counts[k];
  }
}

// A warp's numbers of a tile: 512 neighbours, 32 in each round; bits of magnitudes, less than any beyond the last one.
struct Magnitudes {
  int32_t at[rounds];
};
__device__ __forceinline__ int64_t placeOf(int round) {
  return static_cast<int64_t>(blockIdx.x) * tile + (warpId() * rounds + round) * warpSize + laneId();
}
__device__ __forceinline__ Magnitudes magnitudesOf(const float* x, int64_t numbers) {
  Magnitudes m;
  for (int r = 0; r < rounds; r++)
    m.at[r] = placeOf(r) < numbers ? static_cast<int32_t>(magnitudeBits(x[placeOf(r)])) : -1;
  return m;
}
// How many of the warp's are above and equal to the k-th; every lane gets the result.
__device__ __forceinline__ void countWarp(const Magnitudes& m, int32_t least, uint32_t& above, uint32_t& equal) {
  above = equal = 0;
  for (const int32_t bits : m.at) {
    above += static_cast<uint32_t>(__popc(__ballot_sync(wholeWarp, bits > least)));
    equal += static_cast<uint32_t>(__popc(__ballot_sync(wholeWarp, bits == least)));
  }
}

// Of each warp.
struct TileCounts {
  uint32_t above[warps], equal[warps];
};
__device__ __forceinline__ void shareCounts(TileCounts& counts, uint32_t above, uint32_t equal) {
  if (laneId() == 0) counts.above[warpId()] = above, counts.equal[warpId()] = equal;
  __syncthreads();
}

__device__ void countTiles(int64_t numbers, const float* x, Workspace work) {
  auto& counts = shared<TileCounts>();
  const Magnitudes m = magnitudesOf(x, numbers);
  uint32_t above, equal;
  countWarp(m, static_cast<int32_t>(work.known->prefix), above, equal);
  shareCounts(counts, above, equal);
  if (threadIdx.x != 0) return;
  above = equal = 0;
  for (int w = 0; w < warps; w++) above += counts.above[w], equal += counts.equal[w];
  work.above[blockIdx.x] = above, work.equal[blockIdx.x] = equal;
}

__device__ void placeTiles(int64_t tiles, Workspace work) {
  auto& sums = shared<uint32_t[placeThreads / warpSize]>();
  uint32_t aboveBefore = 0, equalBefore = 0;
  for (int64_t first = 0; first < tiles; first += placeThreads) {
    const int64_t t = first + threadIdx.x;
    uint32_t aboveTotal, equalTotal;
    const uint32_t above = sumBefore<placeThreads>(t < tiles ? work.above[t] : 0, sums, aboveTotal);
    const uint32_t equal = sumBefore<placeThreads>(t < tiles ? work.equal[t] : 0, sums, equalTotal);
    if (t < tiles) work.above[t] = aboveBefore + above, work.equal[t] = equalBefore + equal;
    aboveBefore += aboveTotal, equalBefore += equalTotal;
  }
}

__device__ void send(int64_t numbers, int64_t kept, const float* x, float* next, Workspace work, int32_t* places) {
  auto* const sent = reinterpret_cast<Bf16*>(places + kept);
  auto& counts = shared<TileCounts>();
  const Known known = *work.known;
  const auto least = static_cast<int32_t>(known.prefix);
  const Magnitudes m = magnitudesOf(x, numbers);
  uint32_t above, equal;
  countWarp(m, least, above, equal);
  shareCounts(counts, above, equal);
  above = work.above[blockIdx.x], equal = work.equal[blockIdx.x];
  for (int w = 0; w < warpId(); w++) above += counts.above[w], equal += counts.equal[w];
  const uint32_t lower = (1u << laneId()) - 1;
  for (int r = 0; r < rounds; r++) {
    const unsigned aboves = __ballot_sync(wholeWarp, m.at[r] > least),
                   equals = __ballot_sync(wholeWarp, m.at[r] == least);
    const uint32_t aboveHere = above + static_cast<uint32_t>(__popc(aboves & lower));
    const uint32_t equalHere = equal + static_cast<uint32_t>(__popc(equals & lower));
    if (m.at[r] > least || (m.at[r] == least && equalHere < known.left)) {
      // Of the numbers before, those above the k-th were sent, and of the equal ones the first.
      const uint32_t to = aboveHere + min(equalHere, known.left);
      const int64_t i = placeOf(r);
      const float one = x[i];
      const Bf16 rounded = fromFloat<Bf16>(one);
      places[to] = static_cast<int32_t>(i);
      sent[to] = rounded;
      if (next) next[i] = one - toFloat(rounded);
    }
    above += static_cast<uint32_t>(__popc(aboves)), equal += static_cast<uint32_t>(__popc(equals));
  }
  if (blockIdx.x == 0 && threadIdx.x == 0 && kept % 2 == 1) sent[kept] = {0};
}

void run(const TopKParams& p, void* const* b, RunContext& context) {
  auto* const next = static_cast<float*>(b[4]);
  if (b[1] && !next) return context.fail("[top-k] expected nextResidual where there is a residual");
  const WithResidual from = withResidual(b[0], b[1], b[2]), sums = withResidual(next ? next : b[0], nullptr, nullptr);
  const float* const x = sums.grad;
  const Workspace work = workspaceOf(p, context.workspace);
  const bool isWide = isAligned(b[0], 16) && isAligned(b[1], 16) && isAligned(next, 16);
  // Enough blocks to keep memory busy, each with much to count before it adds to all others' counts.
  const unsigned most = static_cast<unsigned>(context.processors) * 4;
  const Grid pass{.x = std::min(blocksFor(p.count, threads * width), most), .sharedBytes = sizeof(Counters)};
  const Grid one{.x = 1, .sharedBytes = warps * 4};
  launch<begin, threads>(context, {.x = 1}, work, static_cast<uint32_t>(p.kept));
  launch<countDigit<0>, threads>(context, pass, p.count, from, next, isWide, work);
  launch<chooseDigit<0>, threads>(context, one, work);
  launch<countDigit<1>, threads>(context, pass, p.count, sums, static_cast<float*>(nullptr), isWide, work);
  launch<chooseDigit<1>, threads>(context, one, work);
  launch<countDigit<2>, threads>(context, pass, p.count, sums, static_cast<float*>(nullptr), isWide, work);
  launch<chooseDigit<2>, threads>(context, one, work);
  const Grid tiles{.x = blocksFor(p.count, tile), .sharedBytes = sizeof(TileCounts)};
  launch<countTiles, threads>(context, tiles, p.count, x, work);
  launch<placeTiles, placeThreads>(context, {.x = 1, .sharedBytes = placeThreads / warpSize * 4}, tilesOf(p.count),
                                   work);
  launch<send, threads, 3>(context, tiles, p.count, p.kept, x, next, work, static_cast<int32_t*>(b[3]));
}

// ---- The sum

__device__ void clear(int64_t count, float* y) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) y[i] = 0;
}

// Places of one rank are all different: no two threads add to one number.
__device__ void addMessage(int64_t count, int64_t kept, int64_t rank, const int32_t* places, float* y,
                           FaultSite faults) {
  const auto* const numbers = reinterpret_cast<const Bf16*>(places + kept);
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < kept; i += step) {
    const int32_t place = places[i];
    if (place < 0 || place >= count || (i > 0 && places[i - 1] >= place)) {
      faults.report(rank);
    } else {
      y[place] += toFloat(numbers[i]);
    }
  }
}

void runSum(const TopKSumParams& p, void* const* b, RunContext& context) {
  auto* const y = static_cast<float*>(b[1]);
  launch<clear, threads>(context, {.x = blocksFor(p.count, threads)}, p.count, y);
  for (int64_t r = 0; r < p.ranks; r++) {
    const auto* const places = reinterpret_cast<const int32_t*>(static_cast<const char*>(b[0]) + r * topKBytes(p.kept));
    launch<addMessage, threads>(context, {.x = blocksFor(p.kept, threads)}, p.count, p.kept, r, places, y,
                                faultsOf(context));
  }
}

int64_t noWorkspace(const TopKSumParams&, int) { return 0; }

void explainSum(const TopKSumParams&, const Fault& fault, RunContext& context) {
  context.fail("[top-k-sum] expected ascending places from rank %lld", static_cast<long long>(fault.numbers[0]));
}

}  // namespace top_k

HADAL_KERNEL_WITH_WORKSPACE(topK, TopKParams, top_k::run, top_k::workspaceBytes)
HADAL_KERNEL_WITH_FAULTS(topKSum, TopKSumParams, top_k::runSum, top_k::noWorkspace, top_k::explainSum)

}  // namespace cuda
}  // namespace hadal
