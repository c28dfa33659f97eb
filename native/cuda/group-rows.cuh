// Rows of groups, of which the device alone knows where they begin: group e has rows offsets[e] … offsets[e + 1] − 1. A launch of
// one block cuts the groups into tiles of rows and finds wrong offsets; blocks of the next one find the rows of their tile.
#pragma once
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace group_rows {

struct Groups {
  const int32_t* offsets;
  int32_t* firstTile;  // [count + 1]: tiles of the groups before; may be null for cutTiles
  int64_t count, rows, tileRows;
};

inline int64_t workspaceBytes(int64_t groups) { return (groups + 1) * static_cast<int64_t>(sizeof(int32_t)); }

// As many tiles as there can be: every group may end with one of fewer rows, and none has less than a row.
inline int64_t mostTiles(int64_t groups, int64_t rows, int64_t tileRows) {
  const int64_t most = rows / tileRows + groups;
  return most < rows ? most : rows;
}

struct Shared {
  int32_t sums[threads / warpSize];
};

// By one block of `threads`. Reports the first offset that is less than the one before it, or more than the rows, as (its index,
// the least it may be, what it is): launches after this one then do nothing, and may trust the offsets.
__device__ inline void cutTiles(Groups groups, FaultSite faults) {
  constexpr int warps = threads / warpSize;
  auto& s = shared<Shared>();
  const int32_t* const offsets = groups.offsets;
  const auto leastOf = [&](int64_t e) { return e == 0 ? 0 : offsets[e - 1]; };
  int32_t bad = 0x7fffffff;
  for (int64_t e = threadIdx.x; e <= groups.count; e += threads)
    if (offsets[e] < leastOf(e) || offsets[e] > groups.rows) bad = min(bad, static_cast<int32_t>(e));
  for (int width = warpSize / 2; width > 0; width /= 2) bad = min(bad, __shfl_xor_sync(wholeWarp, bad, width));
  if (laneId() == 0) s.sums[warpId()] = bad;
  __syncthreads();
  for (int w = 0; w < warps; w++) bad = min(bad, s.sums[w]);
  __syncthreads();
  if (threadIdx.x == 0 && bad <= groups.count) faults.report(bad, leastOf(bad), offsets[bad]);
  if (!groups.firstTile) return;

  int32_t before = 0;
  for (int64_t first = 0; first < groups.count; first += threads) {
    const int64_t e = first + threadIdx.x;
    const int64_t rows = e < groups.count ? static_cast<int64_t>(offsets[e + 1]) - offsets[e] : 0;
    const int32_t tiles = static_cast<int32_t>((rows + groups.tileRows - 1) / groups.tileRows);
    int32_t sum = tiles;  // of this lane and those below
    for (int width = 1; width < warpSize; width *= 2) {
      const int32_t below = __shfl_up_sync(wholeWarp, sum, width);
      if (laneId() >= width) sum += below;
    }
    if (laneId() == warpSize - 1) s.sums[warpId()] = sum;
    __syncthreads();
    for (int w = 0; w < warpId(); w++) sum += s.sums[w];
    if (e < groups.count) groups.firstTile[e] = before + sum - tiles;
    for (int w = 0; w < warps; w++) before += s.sums[w];
    __syncthreads();
  }
  if (threadIdx.x == 0) groups.firstTile[groups.count] = before;
}

inline void launchCutTiles(const Groups& groups, RunContext& context) {
  launch<cutTiles, threads>(context, {.sharedBytes = sizeof(Shared)}, groups, faultsOf(context));
}

// What a tile has of its group: all rows of that are begin … begin + count − 1, those of the tile from begin + row on.
struct Tile {
  int64_t group, begin, count, row;
  bool exists;
};

// By whole warps. A warp counts the groups that begin at or before the tile, 32 at a time: no load waits for another.
__device__ __forceinline__ Tile tileAt(const Groups& groups, int64_t tile) {
  if (tile >= groups.firstTile[groups.count]) return {0, 0, 0, 0, false};
  int64_t group = -1;
  for (int64_t first = 0; first < groups.count; first += warpSize) {
    const int64_t e = first + laneId();
    group += __popc(__ballot_sync(wholeWarp, e < groups.count && groups.firstTile[e] <= tile));
  }
  const int64_t begin = groups.offsets[group];
  return {group, begin, groups.offsets[group + 1] - begin, (tile - groups.firstTile[group]) * groups.tileRows, true};
}

}  // namespace group_rows
}  // namespace cuda
}  // namespace hadal
