// Formulas, shapes, bytes: native/ops/top-k.h. Blocks of threads take tiles of 4096 numbers; where the numbers of a tile go
// follows from the counts of the tiles before it, so that places ascend as on the CPU. Compiled by scripts/check-cuda.mjs;
// has not run on hardware yet.
#include <cuda_bf16.h>

#include "cuda/launch.cuh"
// After launch.cuh, which makes its helpers run on the device.
#include "ops/top-k.h"

namespace hadal {
namespace cuda {
namespace {

// Counts of a tile are two numbers beside 16 KiB that are read for them.
constexpr int64_t tile = 4096;
// Digits of a magnitude (31 bits): where they begin, and how many values they have. 2048 counters are 8 KiB of shared memory.
constexpr int digits = 3;
constexpr int mostValues = 2048;
__device__ constexpr int shifts[digits] = {20, 9, 0};
__device__ constexpr int values[digits] = {2048, 2048, 512};

// What is known of the k-th magnitude: its digits so far, and its rank among the numbers that have them.
struct Known {
  uint32_t prefix;
  uint32_t left;
};

struct Workspace {
  uint32_t* counts;  // mostValues
  Known* known;
  uint32_t* above;  // of each tile: numbers above the k-th, then where its first goes
  uint32_t* equal;  // of each tile: numbers equal to the k-th, then how many are before it
};

int64_t tilesOf(int64_t count) { return (count + tile - 1) / tile; }

Workspace workspaceOf(void* memory, int64_t count) {
  uint32_t* at = static_cast<uint32_t*>(memory);
  uint32_t* tiles = at + mostValues + 2;
  return {at, reinterpret_cast<Known*>(at + mostValues), tiles, tiles + tilesOf(count)};
}

__global__ void begin(Workspace work, uint32_t kept) { *work.known = {0, kept}; }

// Counts the numbers with the known digits by the next one. The first time x is summed up on the way, `sums` not being null.
__global__ void countDigit(WithResidual from, const float* x, float* sums, int64_t count, int digit, Workspace work) {
  __shared__ uint32_t own[mostValues];
  for (int i = static_cast<int>(threadIdx.x); i < mostValues; i += threads) own[i] = 0;
  __syncthreads();
  const uint32_t prefix = work.known->prefix;
  const int shift = shifts[digit];
  const uint32_t mask = static_cast<uint32_t>(values[digit]) - 1;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    const float one = digit == 0 ? from[i] : x[i];
    if (sums) sums[i] = one;
    const uint32_t bits = magnitudeBits(one);
    if (digit == 0 || bits >> shifts[digit - 1] == prefix) atomicAdd(&own[bits >> shift & mask], 1u);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < mostValues; i += threads)
    if (own[i] != 0) atomicAdd(&work.counts[i], own[i]);
}

// One thread: a few microseconds beside passes over all numbers.
__global__ void chooseDigit(int digit, Workspace work) {
  uint32_t left = work.known->left;
  int chosen = values[digit] - 1;
  while (chosen > 0 && work.counts[chosen] < left) left -= work.counts[chosen--];
  const int width = digit == 0 ? 0 : shifts[digit - 1] - shifts[digit];
  *work.known = {work.known->prefix << width | static_cast<uint32_t>(chosen), left};
}

__global__ void countTiles(const float* x, int64_t count, Workspace work) {
  __shared__ uint32_t shared[warps];
  const uint32_t least = work.known->prefix;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile, last = min(first + tile, count);
  uint32_t above = 0, equal = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += threads) {
    const uint32_t bits = magnitudeBits(x[i]);
    above += bits > least ? 1 : 0, equal += bits == least ? 1 : 0;
  }
  above = blockSum(above, shared);
  equal = blockSum(equal, shared);
  if (threadIdx.x == 0) work.above[blockIdx.x] = above, work.equal[blockIdx.x] = equal;
}

// One thread: a tile is two additions beside 4096 numbers.
__global__ void placeTiles(int64_t tiles, Workspace work) {
  uint32_t at = 0, before = 0;
  const uint32_t ties = work.known->left;
  for (int64_t t = 0; t < tiles; t++) {
    const uint32_t above = work.above[t], equal = work.equal[t];
    const uint32_t left = ties > before ? ties - before : 0;
    work.above[t] = at, work.equal[t] = before;
    at += above + (equal < left ? equal : left), before += equal;
  }
}

// How many threads before this one, and how many of the block, say yes.
__device__ uint32_t rankInBlock(bool yes, uint32_t* shared, uint32_t& total) {
  const unsigned lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize;
  const uint32_t mask = __ballot_sync(0xffffffffu, yes);
  if (lane == 0) shared[warp] = static_cast<uint32_t>(__popc(mask));
  __syncthreads();
  uint32_t before = static_cast<uint32_t>(__popc(mask & ((1u << lane) - 1)));
  total = 0;
  for (unsigned w = 0; w < warps; w++) {
    if (w < warp) before += shared[w];
    total += shared[w];
  }
  __syncthreads();
  return before;
}

__global__ void send(const float* x, float* next, int64_t count, int64_t kept, Workspace work, void* message) {
  __shared__ uint32_t shared[warps];
  int32_t* places = static_cast<int32_t*>(message);
  __nv_bfloat16* numbers = reinterpret_cast<__nv_bfloat16*>(places + kept);
  const Known known = *work.known;
  uint32_t at = work.above[blockIdx.x], ties = work.equal[blockIdx.x];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile;
  for (int64_t offset = 0; offset < tile; offset += threads) {
    const int64_t i = first + offset + threadIdx.x;
    const float one = i < count ? x[i] : 0.0f;
    const uint32_t bits = magnitudeBits(one);
    const bool isEqual = i < count && bits == known.prefix;
    uint32_t equal, sent;
    const uint32_t tie = ties + rankInBlock(isEqual, shared, equal);
    const bool isSent = (i < count && bits > known.prefix) || (isEqual && tie < known.left);
    const uint32_t to = at + rankInBlock(isSent, shared, sent);
    if (isSent) {
      const __nv_bfloat16 rounded = __float2bfloat16_rn(one);
      places[to] = static_cast<int32_t>(i);
      numbers[to] = rounded;
      if (next) next[i] = one - __bfloat162float(rounded);
    }
    ties += equal, at += sent;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0 && kept % 2 == 1) numbers[kept] = __float2bfloat16_rn(0.0f);
}

// Places of one rank are all different: no two threads add to one number.
__global__ void addMessage(const void* message, int64_t count, int64_t kept, float* y, int* isWrong) {
  const int32_t* places = static_cast<const int32_t*>(message);
  const __nv_bfloat16* numbers = reinterpret_cast<const __nv_bfloat16*>(places + kept);
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < kept; i += step) {
    const int32_t place = places[i];
    if (place < 0 || place >= count || (i > 0 && places[i - 1] >= place))
      *isWrong = 1;
    else
      y[place] += __bfloat162float(numbers[i]);
  }
}

// Blocks of passes over all numbers: enough for the largest GPU, each with much to count before it adds to all others' counts.
constexpr unsigned passBlocks = 1024;

}  // namespace

int64_t topKWorkspaceBytes(const TopKParams& p) { return (mostValues + 2 + 2 * tilesOf(p.count)) * 4; }

// Buffers in the order of the contract.
cudaError_t launchTopK(const TopKParams& p, void* const* buffers, Launch launch) {
  const WithResidual from{static_cast<const float*>(buffers[0]), static_cast<const float*>(buffers[1]),
                          static_cast<const float*>(buffers[2])};
  float* next = static_cast<float*>(buffers[4]);
  if (buffers[1] && !next) return cudaErrorInvalidValue;
  const float* x = next ? next : from.grad;
  const Workspace work = workspaceOf(launch.workspace, p.count);
  const unsigned blocks = min(blocksFor(p.count, threads), passBlocks);
  begin<<<1, 1, 0, launch.stream>>>(work, static_cast<uint32_t>(p.kept));
  for (int digit = 0; digit < digits; digit++) {
    const cudaError_t cleared = cudaMemsetAsync(work.counts, 0, mostValues * 4, launch.stream);
    if (cleared != cudaSuccess) return cleared;
    countDigit<<<blocks, threads, 0, launch.stream>>>(from, x, digit == 0 ? next : nullptr, p.count, digit, work);
    chooseDigit<<<1, 1, 0, launch.stream>>>(digit, work);
  }
  const unsigned tiles = blocksFor(p.count, tile);
  countTiles<<<tiles, threads, 0, launch.stream>>>(x, p.count, work);
  placeTiles<<<1, 1, 0, launch.stream>>>(tiles, work);
  send<<<tiles, threads, 0, launch.stream>>>(x, next, p.count, p.kept, work, buffers[3]);
  return cudaGetLastError();
}

// isWrong (int32, in the workspace) is 1 afterwards where places of a message do not ascend or lie outside.
cudaError_t launchTopKSum(const TopKSumParams& p, void* const* buffers, Launch launch) {
  float* y = static_cast<float*>(buffers[1]);
  int* isWrong = static_cast<int*>(launch.workspace);
  if (const cudaError_t failed = cudaMemsetAsync(y, 0, static_cast<size_t>(p.count) * 4, launch.stream)) return failed;
  if (const cudaError_t failed = cudaMemsetAsync(isWrong, 0, 4, launch.stream)) return failed;
  for (int64_t r = 0; r < p.ranks; r++) {
    const char* message = static_cast<const char*>(buffers[0]) + r * topKBytes(p.kept);
    addMessage<<<blocksFor(p.kept, threads), threads, 0, launch.stream>>>(message, p.count, p.kept, y, isWrong);
  }
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace hadal
