// Formula, layout, bytes: native/ops/packed-matmul.h. Reading the weights is all there is to do for few rows, so a block reads a panel
// of 32 columns once for up to 8 rows of a, 16 bytes a thread; multiplications are plain FMA, which keep up with memory up to
// about 8 rows. Each number of c is summed in an order that follows from K alone: its bits do not depend on the rows beside it, which
// is why more rows take the same path, reading the weights again (from the second-level cache) for every 8.
#include "cuda/gemm.cuh"
#include "ops/packed-matmul.h"

namespace hadal {
namespace cuda {
namespace packed_matmul {

// ---- Packing: squares of 32 columns × 32 terms, turned in shared memory where w's rows are columns

// A row of 33 numbers, so that neither rows nor columns meet in a bank.
constexpr int side = 32;
template <class Bits>
struct Square {
  Bits at[side][side + 1];
};

// Bits are copied as they are.
template <class Bits>
__device__ void pack(PackWeightsParams p, const Bits* w, Bits* packed) {
  auto& s = shared<Square<Bits>>();
  const int64_t squares = (p.k + side - 1) / side;
  const int64_t panel = blockIdx.x / squares, firstK = blockIdx.x % squares * side;
  const int64_t item = panel / p.panels(), firstColumn = panel % p.panels() * panelColumns;
  const int x = laneId(), y = warpId();
  constexpr int step = threads / side;
#pragma unroll
  for (int i = y; i < side; i += step) {
    const int64_t k = firstK + (p.transposeB ? x : i), column = firstColumn + (p.transposeB ? i : x);
    const int64_t at = item * p.n * p.k + (p.transposeB ? column * p.k + k : k * p.n + column);
    (p.transposeB ? s.at[x][i] : s.at[i][x]) = k < p.k && column < p.n ? w[at] : Bits{0};
  }
  __syncthreads();
#pragma unroll
  for (int i = y; i < side; i += step)
    if (firstK + i < p.k) packed[(panel * p.k + firstK + i) * panelColumns + x] = s.at[i][x];
}

template <class Bits>
void packBits(const PackWeightsParams& p, void* const* b, RunContext& context) {
  const int64_t squares = (p.k + side - 1) / side;
  launch<pack<Bits>, threads>(context,
                              {.x = blocksFor(p.batch * p.panels() * squares, 1), .sharedBytes = sizeof(Square<Bits>)},
                              p, static_cast<const Bits*>(b[0]), static_cast<Bits*>(b[1]));
}

void runPack(const PackWeightsParams& p, void* const* b, RunContext& context) {
  bytesOf(p.dtype) == 4 ? packBits<uint32_t>(p, b, context) : packBits<uint16_t>(p, b, context);
}

// ---- The product

constexpr int warps = threads / warpSize;
constexpr int columns = static_cast<int>(panelColumns);
constexpr int mostRows = 8;

// How a block lies over the rows of a panel: 16 bytes a lane, terms by lanes and warps.
template <class W, int rows>
struct Cut {
  static constexpr int wide = packed<W>;          // columns of a thread
  static constexpr int across = columns / wide;   // lanes that share a term
  static constexpr int terms = threads / across;  // of a block at once
  // Loads that a thread has on their way. Memory of the fastest cards asks a multiprocessor for about 16 KiB at a time: those of
  // two blocks with 2 loads. Fewer sums leave registers for more. The order of a thread's terms does not depend on it.
  static constexpr int depth = rows == 1 ? 8 : rows == mostRows ? 2 : 4;
  static constexpr int chunk = terms * depth;
};

template <class W, int rows>
struct Shared {
  float a[rows][Cut<W, rows>::chunk];
  float sums[warps][rows][columns];
};

template <class W, int rows>
__device__ void multiply(PackedMatmulParams p, const void* a, const W* weights, void* c, bool isAligned) {
  using Cut = packed_matmul::Cut<W, rows>;
  auto& s = shared<Shared<W, rows>>();
  // Blocks of one panel are neighbours.
  const int64_t bands = (p.m + rows - 1) / rows, panel = blockIdx.x / bands, firstRow = blockIdx.x % bands * rows;
  const int64_t item = panel / p.panels();
  const int64_t rowsLeft = p.m - firstRow, rowOfBatch = item * p.m + firstRow;
  const int term = static_cast<int>(threadIdx.x) / Cut::across, column = laneId() % Cut::across * Cut::wide;
  const W* const from = weights + panel * p.k * columns + column;
  float sums[rows][Cut::wide] = {};
  for (int64_t first = 0; first < p.k; first += Cut::chunk) {
    Pack<W, Cut::wide> w[Cut::depth];
#pragma unroll
    for (int i = 0; i < Cut::depth; i++) {
      const int64_t k = first + term + i * Cut::terms;
      if (k >= p.k) {
        w[i] = {};
      } else if (isAligned) {
        w[i] = *reinterpret_cast<const Pack<W, Cut::wide>*>(from + k * columns);
      } else {
#pragma unroll
        for (int j = 0; j < Cut::wide; j++) w[i].at[j] = from[k * columns + j];
      }
    }
    __syncthreads();  // the chunk before this one has been read
    gemm::withType(p.dtypeA, [&](auto zero) {
      using A = decltype(zero);
      const A* const numbers = static_cast<const A*>(a) + rowOfBatch * p.k + first;
      for (int at = static_cast<int>(threadIdx.x); at < rows * Cut::chunk; at += threads) {
        const int row = at / Cut::chunk, k = at % Cut::chunk;
        s.a[row][k] = row < rowsLeft && first + k < p.k ? toFloat(numbers[row * p.k + k]) : 0.0f;
      }
    });
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Cut::depth; i++) {
#pragma unroll
      for (int row = 0; row < rows; row++) {
        const float x = s.a[row][term + i * Cut::terms];
#pragma unroll
        for (int j = 0; j < Cut::wide; j++) sums[row][j] = fmaf(x, toFloat(w[i].at[j]), sums[row][j]);
      }
    }
  }
  // Over the lanes that have the same columns, then over the warps.
#pragma unroll
  for (int row = 0; row < rows; row++) {
#pragma unroll
    for (int j = 0; j < Cut::wide; j++) {
      float x = sums[row][j];
#pragma unroll
      for (int apart = Cut::across; apart < warpSize; apart *= 2) x += __shfl_xor_sync(wholeWarp, x, apart);
      if (laneId() < Cut::across) s.sums[warpId()][row][column + j] = x;
    }
  }
  __syncthreads();
  const int row = warpId(), atColumn = laneId();
  const int64_t columnOfC = panel % p.panels() * columns + atColumn;
  if (row >= rows || row >= rowsLeft || columnOfC >= p.n) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < warps; w++) total += s.sums[w][row][atColumn];
  gemm::withType(p.dtypeC, [&](auto zero) {
    using C = decltype(zero);
    static_cast<C*>(c)[(rowOfBatch + row) * p.n + columnOfC] = fromFloat<C>(total);
  });
}
static_assert(mostRows <= warps);

template <class W, int rows>
void launchRows(const PackedMatmulParams& p, void* const* b, RunContext& context) {
  const Grid grid{.x = blocksFor(p.batch * p.panels() * ((p.m + rows - 1) / rows), 1),
                  .sharedBytes = sizeof(Shared<W, rows>)};
  launch<multiply<W, rows>, threads, 2>(context, grid, p, b[0], static_cast<const W*>(b[1]), b[2], isAligned(b[1], 16));
}

void run(const PackedMatmulParams& p, void* const* b, RunContext& context) {
  dispatch(p.dtypeW, [&](auto w) {
    using W = decltype(w);
    if (p.m <= 1) return launchRows<W, 1>(p, b, context);
    if (p.m <= 4) return launchRows<W, 4>(p, b, context);
    launchRows<W, mostRows>(p, b, context);
  });
}

}  // namespace packed_matmul
}  // namespace cuda

HADAL_KERNEL(packWeights, PackWeightsParams, cuda::packed_matmul::runPack)
HADAL_KERNEL(packedMatmul, PackedMatmulParams, cuda::packed_matmul::run)

}  // namespace hadal
