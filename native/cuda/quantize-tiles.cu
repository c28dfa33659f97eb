// Formulas, shapes, bytes: native/ops/quantize-tiles.h. A tile is read twice, for its largest magnitude and to be rounded; the
// second time it comes from a cache. Three ways to take tiles, by their shape:
//   1 × 128 (activations) and other small ones: a warp a tile;
//   128 × 128 (weights) and other large ones: a block a tile, a warp a row at a time;
//   128 × 1 (activations, by columns): a block takes tiles side by side, since neighbours share sectors of memory.
// A lane takes 4 numbers side by side where rows allow it: 32 lanes then take the 128 columns of a row at once.
#include "cuda/group-rows.cuh"
// After launch.cuh, which makes its helpers run on the device.
#include "ops/quantize-tiles.h"

namespace hadal {
namespace cuda {
namespace quantize_tiles {

constexpr int warps = threads / warpSize;
// Numbers a lane loads at once.
constexpr int wide = 4;
// A warp passes over so many numbers in 32 steps; larger tiles are a block's.
constexpr int64_t mostOfWarp = 32 * warpSize * wide;
// Rows of a tile under way at the same time, for latency.
constexpr int batch = 4;

__device__ __forceinline__ float scaleOf(float largest, bool powerOfTwo) {
  const float scale = fmaxf(largest / 448.0f, 0x1p-126f);
  return powerOfTwo ? __uint_as_float((__float_as_uint(scale) + 0x7fffffu) & 0x7f800000u) : scale;
}

// Adding 1.5 · 2^(e + 20) to a number of exponent e leaves it room for three bits behind its first one. Below 2^-6, where
// E4M3's numbers are 2^-9 apart, e stays −6.
__device__ __forceinline__ float toE4m3(float x) {
  const float limited = x < -448.0f ? -448.0f : x > 448.0f ? 448.0f : x;  // NaN stays NaN
  const uint32_t exponent = __float_as_uint(limited) & 0x7f800000u;
  const float shift = __uint_as_float((max(exponent, 0x3c800000u) + (20u << 23)) | 0x400000u);
  return __fadd_rn(__fadd_rn(limited, shift), -shift);
}

// Tiles by stripes (rows of tiles), left to right.
struct Tiles {
  group_rows::Groups groups;                   // no offsets: each has as many rows
  int64_t columns, tileColumns, parts, items;  // parts: of a stripe; items: stripes · parts, at most
  bool powerOfTwo;
  DType dtypeY;
};

struct Rows {
  int64_t begin, count;  // no rows: the stripe does not exist
};

__device__ __forceinline__ Rows rowsOf(const group_rows::Groups& groups, int64_t stripe) {
  int64_t begin, count, row;
  if (groups.offsets) {
    const group_rows::Tile tile = group_rows::tileAt(groups, stripe);
    if (!tile.exists) return {0, 0};
    begin = tile.begin, count = tile.count, row = tile.row;
  } else {
    count = groups.rows / groups.count;
    const int64_t stripes = (count + groups.tileRows - 1) / groups.tileRows;
    begin = stripe / stripes * count, row = stripe % stripes * groups.tileRows;
  }
  return {begin + row, min(count - row, groups.tileRows)};
}

template <class X, int items>
__device__ __forceinline__ void raise(float (&largest)[items], const Pack<X, items>& x) {
#pragma unroll
  for (int l = 0; l < items; l++) largest[l] = fmaxf(largest[l], fabsf(toFloat(x.at[l])));
}

// Writes vector `at` of y. The dtype is looked at here rather than at compile time: one store of three.
template <class X, int items>
__device__ __forceinline__ void quantize(const Pack<X, items>& x, const float (&scale)[items], void* y, int64_t at,
                                         DType dtype) {
  float rounded[items];
#pragma unroll
  for (int l = 0; l < items; l++) rounded[l] = toE4m3(toFloat(x.at[l]) / scale[l]) * scale[l];
  const auto store = [&](auto zero) {
    using Y = decltype(zero);
    Pack<Y, items> vector;
#pragma unroll
    for (int l = 0; l < items; l++) vector.at[l] = fromFloat<Y>(rounded[l]);
    static_cast<Pack<Y, items>*>(y)[at] = vector;
  };
  if (dtype == DType::fp32)
    store(float{});
  else if (dtype == DType::bf16)
    store(Bf16{});
  else
    store(F16{});
}

// Calls body(vector, i) for some vectors i = first, first + step, … < end of x; loads do not wait for what the body does.
template <class X, int items, class F>
__device__ __forceinline__ void forVectors(const Pack<X, items>* x, int64_t first, int64_t step, int64_t end,
                                           F&& body) {
  for (int64_t i = first; i < end; i += batch * step) {
    Pack<X, items> held[batch] = {};
#pragma unroll
    for (int b = 0; b < batch; b++)
      if (i + b * step < end) held[b] = x[i + b * step];
#pragma unroll
    for (int b = 0; b < batch; b++)
      if (i + b * step < end) body(held[b], i + b * step);
  }
}

struct TileShared {
  float largest[warps];
};

// A tile is a block's, whose warps take a row each, or a warp's.
template <class X, int items, bool wholeBlock>
__device__ void quantizeTiles(Tiles p, const Pack<X, items>* x, void* y) {
  const int first = wholeBlock ? warpId() : 0, step = wholeBlock ? warps : 1;
  const int64_t tilesABlock = wholeBlock ? 1 : warps;
  const int64_t stride = p.columns / items;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * tilesABlock + (wholeBlock ? 0 : warpId());
  for (int64_t item = begin; item < p.items; item += gridDim.x * tilesABlock) {
    const Rows rows = rowsOf(p.groups, item / p.parts);
    if (rows.count <= 0) break;  // nor do the stripes behind it exist
    const int64_t column = item % p.parts * p.tileColumns;
    const int64_t width = min(p.columns - column, p.tileColumns) / items;
    const int64_t corner = rows.begin * stride + column / items;
    const auto forTile = [&](auto&& body) {
      for (int64_t j = laneId(); j < width; j += warpSize)
        forVectors(x, corner + first * stride + j, step * stride, corner + rows.count * stride, body);
    };
    float largest[items] = {};
    forTile([&](const Pack<X, items>& vector, int64_t) { raise(largest, vector); });
    float most = largest[0];
#pragma unroll
    for (int l = 1; l < items; l++) most = fmaxf(most, largest[l]);
    most = wholeBlock ? blockMax<threads>(most, shared<TileShared>().largest) : warpMax(most);
    float scale[items];
#pragma unroll
    for (int l = 0; l < items; l++) scale[l] = scaleOf(most, p.powerOfTwo);
    forTile([&](const Pack<X, items>& vector, int64_t i) { quantize(vector, scale, y, i, p.dtypeY); });
  }
}

template <int items>
struct ColumnsShared {
  float largest[warps][items][warpSize];
};

// Tiles one column wide: a lane takes `items` of them, a warp every eighth row.
template <class X, int items>
__device__ void quantizeColumns(Tiles p, const Pack<X, items>* x, void* y) {
  auto& s = shared<ColumnsShared<items>>();
  const int64_t stride = p.columns / items;
  for (int64_t item = blockIdx.x; item < p.items; item += gridDim.x) {
    const Rows rows = rowsOf(p.groups, item / p.parts);
    if (rows.count <= 0) break;
    const int64_t column = item % p.parts * warpSize + laneId();
    const int64_t begin = rows.begin * stride + column;
    const int64_t end = column < stride ? begin + rows.count * stride : 0;
    float largest[items] = {};
    forVectors(x, begin + warpId() * stride, warps * stride, end,
               [&](const Pack<X, items>& vector, int64_t) { raise(largest, vector); });
#pragma unroll
    for (int l = 0; l < items; l++) s.largest[warpId()][l][laneId()] = largest[l];
    __syncthreads();
#pragma unroll
    for (int l = 0; l < items; l++) {
      for (int w = 0; w < warps; w++) largest[l] = fmaxf(largest[l], s.largest[w][l][laneId()]);
      largest[l] = scaleOf(largest[l], p.powerOfTwo);
    }
    __syncthreads();
    forVectors(x, begin + warpId() * stride, warps * stride, end,
               [&](const Pack<X, items>& vector, int64_t i) { quantize(vector, largest, y, i, p.dtypeY); });
  }
}

// ---- Launches

int64_t workspace(const QuantizeTilesParams& p, int) { return group_rows::workspaceBytes(p.groups); }

template <class X, int items>
void launchTiles(const QuantizeTilesParams& p, const Tiles& tiles, const void* from, void* y, RunContext& context) {
  const auto* const x = static_cast<const Pack<X, items>*>(from);
  if (p.tileColumns == 1)
    launch<quantizeColumns<X, items>, threads>(
        context, {.x = blocksFor(tiles.items, 1), .sharedBytes = sizeof(ColumnsShared<items>)}, tiles, x, y);
  else if (p.tileRows * p.tileColumns <= mostOfWarp)
    launch<quantizeTiles<X, items, false>, threads>(context, {.x = blocksFor(tiles.items, warps)}, tiles, x, y);
  else
    launch<quantizeTiles<X, items, true>, threads>(
        context, {.x = blocksFor(tiles.items, 1), .sharedBytes = sizeof(TileShared)}, tiles, x, y);
}

void run(const QuantizeTilesParams& p, void* const* b, RunContext& context) {
  const group_rows::Groups groups{static_cast<const int32_t*>(b[1]), static_cast<int32_t*>(context.workspace), p.groups,
                                  p.rows, p.tileRows};
  if (groups.offsets) group_rows::launchCutTiles(groups, context);
  if (p.rows == 0 || p.columns == 0 || p.groups == 0) return;
  const int64_t perGroup = (p.rows / p.groups + p.tileRows - 1) / p.tileRows;
  const int64_t stripes = groups.offsets ? group_rows::mostTiles(p.groups, p.rows, p.tileRows) : perGroup * p.groups;
  const bool areColumns = p.tileColumns == 1;
  const bool isWide = p.columns % wide == 0 && (areColumns || p.tileColumns % wide == 0) &&
                      isAligned(b[0], static_cast<size_t>(bytesOf(p.dtypeX)) * wide) &&
                      isAligned(b[2], static_cast<size_t>(bytesOf(p.dtypeY)) * wide);
  const int64_t width = areColumns ? warpSize * (isWide ? wide : 1) : p.tileColumns;
  const int64_t parts = (p.columns + width - 1) / width;
  const Tiles tiles{groups, p.columns, p.tileColumns, parts, stripes * parts, p.powerOfTwo != 0, p.dtypeY};
  dispatch(p.dtypeX, [&](auto zero) {
    using X = decltype(zero);
    if (isWide)
      launchTiles<X, wide>(p, tiles, b[0], b[2], context);
    else
      launchTiles<X, 1>(p, tiles, b[0], b[2], context);
  });
}

void explain(const QuantizeTilesParams& p, const Fault& fault, RunContext& context) {
  context.fail("[quantize-tiles] expected offsets[%lld] in %lld..%lld, got %lld",
               static_cast<long long>(fault.numbers[0]), static_cast<long long>(fault.numbers[1]),
               static_cast<long long>(p.rows), static_cast<long long>(fault.numbers[2]));
}

}  // namespace quantize_tiles

HADAL_KERNEL_WITH_FAULTS(quantizeTiles, QuantizeTilesParams, quantize_tiles::run, quantize_tiles::workspace,
                         quantize_tiles::explain)

}  // namespace cuda
}  // namespace hadal
