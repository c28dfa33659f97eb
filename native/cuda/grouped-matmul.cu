// Formulas, shapes, bytes: native/ops/grouped-matmul.h. A block takes a tile of one group's product. How many rows a group has is
// known on the device only: the grid is for as many tiles as there can be, and the blocks of the others have nothing to do. 16-bit
// factors of one dtype go through tensor cores, all others through fp32 arithmetic. Which tile is taken follows from sizes that the
// host knows, and does not change the bits.
#include "cuda/gemm.cuh"
#include "cuda/group-rows.cuh"
#include "ops/grouped-matmul.h"

namespace hadal {
namespace cuda {
namespace grouped_matmul {

// One tile is enough where training in fp32 is for small models: shared memory keeps up with its sums.
using TileFp32 = gemm::SmallTileFp32;

// ---- y_e = x_e · op(w_e)

struct ForwardJob {
  GroupedMatmulParams p;
  group_rows::Groups groups;
  const void* x;
  const void* w;
  void* y;
  int64_t tilesDown, tilesAcross;
};

struct ForwardTile {
  group_rows::Tile rows;
  gemm::Sizes sizes;
  int64_t column;
};

template <class Tile>
__device__ __forceinline__ ForwardTile forwardTileOf(const ForwardJob& job) {
  const auto place = gemm::tilePlace(blockIdx.x, job.tilesDown, job.tilesAcross);
  const group_rows::Tile rows = group_rows::tileAt(job.groups, place.down);
  return {rows, {rows.count, job.p.n, 0, job.p.k}, place.across * Tile::columns};
}

__device__ __forceinline__ gemm::Output outputOf(const ForwardJob& job, const ForwardTile& tile) {
  const GroupedMatmulParams& p = job.p;
  return {static_cast<char*>(job.y) + tile.rows.begin * p.n * bytesOf(p.dtypeY), p.n, p.dtypeY};
}

template <class Tile, class T, bool transposeB>
__device__ void forward(ForwardJob job) {
  auto& s = shared<gemm::SharedOf<Tile>>();
  const GroupedMatmulParams& p = job.p;
  const ForwardTile tile = forwardTileOf<Tile>(job);
  if (!tile.rows.exists) return;
  const gemm::Factor<T> x{static_cast<const T*>(job.x) + tile.rows.begin * p.k, p.k};
  const gemm::Factor<T> w{static_cast<const T*>(job.w) + tile.rows.group * p.k * p.n, transposeB ? p.k : p.n};
  gemm::Sums<Tile> sums;
  gemm::multiply<Tile, T, false, transposeB>(s, x, w, tile.sizes, tile.rows.row, tile.column, sums);
  gemm::store(s, sums, outputOf(job, tile), tile.sizes, tile.rows.row, tile.column);
}

__device__ void forwardFp32(ForwardJob job) {
  auto& s = shared<gemm::SharedFp32<TileFp32>>();
  const GroupedMatmulParams& p = job.p;
  const ForwardTile tile = forwardTileOf<TileFp32>(job);
  if (!tile.rows.exists) return;
  const gemm::AnyFactor x{static_cast<const char*>(job.x) + tile.rows.begin * p.k * bytesOf(p.dtypeX), p.k, p.dtypeX,
                          false};
  const gemm::AnyFactor w{static_cast<const char*>(job.w) + tile.rows.group * p.k * p.n * bytesOf(p.dtypeW),
                          p.transposeB ? p.k : p.n, p.dtypeW, p.transposeB != 0};
  gemm::SumsFp32<TileFp32> sums;
  gemm::multiplyFp32<TileFp32>(s, x, w, tile.sizes, tile.rows.row, tile.column, sums);
  gemm::store(s, sums, outputOf(job, tile), tile.sizes, tile.rows.row, tile.column);
}

// ---- c_e = a_eᵀ · b_e (+ addend_e). A group without rows has sums of no terms.

struct GradientJob {
  GroupedMatmulWeightGradientParams p;
  const void* a;
  const void* b;
  const int32_t* offsets;
  const void* addend;
  void* c;
  int64_t tilesDown, tilesAcross;
};

struct GradientTile {
  int64_t group, begin, row, column;
  gemm::Sizes sizes;
};

template <class Tile>
__device__ __forceinline__ GradientTile gradientTileOf(const GradientJob& job) {
  const int64_t tiles = job.tilesDown * job.tilesAcross, group = blockIdx.x / tiles;
  const auto place = gemm::tilePlace(blockIdx.x % tiles, job.tilesDown, job.tilesAcross);
  const int64_t begin = job.offsets[group], rows = job.offsets[group + 1] - begin;
  return {group, begin, place.down * Tile::rows, place.across * Tile::columns, {job.p.m, job.p.n, 0, rows}};
}

__device__ __forceinline__ gemm::Output outputOf(const GradientJob& job, const GradientTile& tile) {
  const GroupedMatmulWeightGradientParams& p = job.p;
  const int64_t at = tile.group * p.m * p.n * bytesOf(p.dtypeC);
  const char* const addend = job.addend ? static_cast<const char*>(job.addend) + at : nullptr;
  return {static_cast<char*>(job.c) + at, p.n, p.dtypeC, addend, p.n, p.dtypeC};
}

template <class Tile, class T>
__device__ void gradient(GradientJob job) {
  auto& s = shared<gemm::SharedOf<Tile>>();
  const GroupedMatmulWeightGradientParams& p = job.p;
  const GradientTile tile = gradientTileOf<Tile>(job);
  const gemm::Factor<T> a{static_cast<const T*>(job.a) + tile.begin * p.m, p.m};
  const gemm::Factor<T> b{static_cast<const T*>(job.b) + tile.begin * p.n, p.n};
  gemm::Sums<Tile> sums;
  gemm::multiply<Tile, T, true, false>(s, a, b, tile.sizes, tile.row, tile.column, sums);
  gemm::store(s, sums, outputOf(job, tile), tile.sizes, tile.row, tile.column);
}

__device__ void gradientFp32(GradientJob job) {
  auto& s = shared<gemm::SharedFp32<TileFp32>>();
  const GroupedMatmulWeightGradientParams& p = job.p;
  const GradientTile tile = gradientTileOf<TileFp32>(job);
  const gemm::AnyFactor a{static_cast<const char*>(job.a) + tile.begin * p.m * bytesOf(p.dtypeA), p.m, p.dtypeA, true};
  const gemm::AnyFactor b{static_cast<const char*>(job.b) + tile.begin * p.n * bytesOf(p.dtypeB), p.n, p.dtypeB, false};
  gemm::SumsFp32<TileFp32> sums;
  gemm::multiplyFp32<TileFp32>(s, a, b, tile.sizes, tile.row, tile.column, sums);
  gemm::store(s, sums, outputOf(job, tile), tile.sizes, tile.row, tile.column);
}

// ---- Launches

bool areOnTensorCores(DType a, DType b) { return a == b && a != DType::fp32; }

int64_t tilesOf(int64_t numbers, int64_t tile) { return (numbers + tile - 1) / tile; }

int64_t forwardWorkspace(const GroupedMatmulParams& p, int) { return group_rows::workspaceBytes(p.groups); }

// Calls f with the job of a tile.
template <class Tile, class F>
void withForwardTile(const GroupedMatmulParams& p, void* const* b, RunContext& context, F&& f) {
  const group_rows::Groups groups{static_cast<const int32_t*>(b[2]), static_cast<int32_t*>(context.workspace), p.groups,
                                  p.rows, Tile::rows};
  group_rows::launchCutTiles(groups, context);
  f(ForwardJob{p, groups, b[0], b[1], b[3], group_rows::mostTiles(p.groups, p.rows, Tile::rows),
               tilesOf(p.n, Tile::columns)});
}

template <class Tile, class T>
void launchForward(const GroupedMatmulParams& p, void* const* b, RunContext& context) {
  withForwardTile<Tile>(p, b, context, [&](const ForwardJob& job) {
    const Grid grid{.x = blocksFor(job.tilesDown * job.tilesAcross, 1), .sharedBytes = sizeof(gemm::SharedOf<Tile>)};
    if (p.transposeB)
      launch<forward<Tile, T, true>, Tile::threads, Tile::blocksPerProcessor>(context, grid, job);
    else
      launch<forward<Tile, T, false>, Tile::threads, Tile::blocksPerProcessor>(context, grid, job);
  });
}
void launchForwardFp32(const GroupedMatmulParams& p, void* const* b, RunContext& context) {
  withForwardTile<TileFp32>(p, b, context, [&](const ForwardJob& job) {
    const Grid grid{.x = blocksFor(job.tilesDown * job.tilesAcross, 1),
                    .sharedBytes = sizeof(gemm::SharedFp32<TileFp32>)};
    launch<forwardFp32, TileFp32::threads, TileFp32::blocksPerProcessor>(context, grid, job);
  });
}

// By the rows that a group has on average: a tile of more would be empty for the most part. And large ones only where they are
// enough to give every multiprocessor one.
void runForward(const GroupedMatmulParams& p, void* const* b, RunContext& context) {
  const int64_t rowsAGroup = p.groups > 0 ? p.rows / p.groups : 0;
  const int64_t largeTiles = tilesOf(p.rows, gemm::LargeTile::rows) * tilesOf(p.n, gemm::LargeTile::columns);
  const bool isLarge = rowsAGroup >= gemm::LargeTile::rows && largeTiles >= context.processors;
  if (!areOnTensorCores(p.dtypeX, p.dtypeW)) {
    return launchForwardFp32(p, b, context);
  }
  dispatch(p.dtypeX, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (isLarge) return launchForward<gemm::LargeTile, T>(p, b, context);
      if (rowsAGroup > gemm::FlatTile::rows) return launchForward<gemm::SmallTile, T>(p, b, context);
      launchForward<gemm::FlatTile, T>(p, b, context);
    }
  });
}

int64_t noWorkspace(const GroupedMatmulWeightGradientParams&, int) { return 0; }

template <class Tile>
GradientJob gradientJob(const GroupedMatmulWeightGradientParams& p, void* const* b) {
  return {p,
          b[0],
          b[1],
          static_cast<const int32_t*>(b[2]),
          b[3],
          b[4],
          tilesOf(p.m, Tile::rows),
          tilesOf(p.n, Tile::columns)};
}
template <class Tile, class T>
void launchGradient(const GroupedMatmulWeightGradientParams& p, void* const* b, RunContext& context) {
  const GradientJob job = gradientJob<Tile>(p, b);
  launch<gradient<Tile, T>, Tile::threads, Tile::blocksPerProcessor>(
      context,
      {.x = blocksFor(p.groups * job.tilesDown * job.tilesAcross, 1), .sharedBytes = sizeof(gemm::SharedOf<Tile>)},
      job);
}
void launchGradientFp32(const GroupedMatmulWeightGradientParams& p, void* const* b, RunContext& context) {
  const GradientJob job = gradientJob<TileFp32>(p, b);
  launch<gradientFp32, TileFp32::threads, TileFp32::blocksPerProcessor>(
      context,
      {.x = blocksFor(p.groups * job.tilesDown * job.tilesAcross, 1),
       .sharedBytes = sizeof(gemm::SharedFp32<TileFp32>)},
      job);
}

void runGradient(const GroupedMatmulWeightGradientParams& p, void* const* b, RunContext& context) {
  group_rows::launchCutTiles({static_cast<const int32_t*>(b[2]), nullptr, p.groups, p.rows, 1}, context);
  const int64_t largeTiles = p.groups * tilesOf(p.m, gemm::LargeTile::rows) * tilesOf(p.n, gemm::LargeTile::columns);
  const bool isLarge = largeTiles >= context.processors;
  if (!areOnTensorCores(p.dtypeA, p.dtypeB)) {
    return launchGradientFp32(p, b, context);
  }
  dispatch(p.dtypeA, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (isLarge) return launchGradient<gemm::LargeTile, T>(p, b, context);
      launchGradient<gemm::SmallTile, T>(p, b, context);
    }
  });
}

template <class P>
void explain(const P& p, const Fault& fault, RunContext& context) {
  context.fail("[grouped-matmul] expected offsets[%d] in %d..%d, got %d", static_cast<int>(fault.numbers[0]),
               static_cast<int>(fault.numbers[1]), static_cast<int>(p.rows), static_cast<int>(fault.numbers[2]));
}

}  // namespace grouped_matmul

HADAL_KERNEL_WITH_FAULTS(groupedMatmul, GroupedMatmulParams, grouped_matmul::runForward,
                         grouped_matmul::forwardWorkspace, grouped_matmul::explain<GroupedMatmulParams>)
HADAL_KERNEL_WITH_FAULTS(groupedMatmulWeightGradient, GroupedMatmulWeightGradientParams, grouped_matmul::runGradient,
                         grouped_matmul::noWorkspace, grouped_matmul::explain<GroupedMatmulWeightGradientParams>)

}  // namespace cuda
}  // namespace hadal
