#include "ops/packed-matmul.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Bits are copied as they are.
template <class Bits>
void pack(const PackWeightsParams& p, const Bits* w, Bits* packed, int threads) {
  const int64_t columnStride = p.transposeB ? p.k : 1, rowStride = p.transposeB ? 1 : p.n;
  const int64_t panels = p.panels(), grain = 1 + 16384 / (p.k * panelColumns + 1);
  parallelFor(p.batch * panels, threads, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; panel++) {
      const int64_t first = panel % panels * panelColumns, left = p.n - first;
      const Bits* from = w + panel / panels * p.n * p.k;
      Bits* to = packed + panel * panelColumns * p.k;
      for (int64_t k = 0; k < p.k; k++)
        for (int64_t j = 0; j < panelColumns; j++)
          to[k * panelColumns + j] = j < left ? from[k * rowStride + (first + j) * columnStride] : Bits{0};
    }
  });
}

void packAny(const PackWeightsParams& p, void* const* buffers, RunContext& context) {
  if (bytesOf(p.dtype) == 4)
    pack(p, static_cast<const uint32_t*>(buffers[0]), static_cast<uint32_t*>(buffers[1]), context.threads);
  else
    pack(p, static_cast<const uint16_t*>(buffers[0]), static_cast<uint16_t*>(buffers[1]), context.threads);
}

// ---- c = a · w. Each number of c is one sum in order of k, whatever the tile: a row's bits do not depend on the rows beside it.

// Rows of the highest register tile, two vectors wide: 24 sums of AVX-512's 32 registers, 12 of the others' 16.
constexpr int tileRows = lanes == 16 ? 12 : 6;

// Columns from `column` on, a multiple of a tile's width: part of a panel, or several panels.
template <int rows, int vectors, class W>
__attribute__((noinline)) void tile(const PackedMatmulParams& p, const float* a, const W* packed, void* c, int64_t row,
                                    int64_t column) {
  const int64_t panel = column / panelColumns * panelColumns * p.k + column % panelColumns;
  Vec sums[rows][vectors] = {};
  for (int64_t k = 0; k < p.k; k++) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
      constexpr int across = static_cast<int>(panelColumns);
      const Vec weights = load(packed + panel + v * lanes / across * across * p.k + k * across + v * lanes % across);
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++) sums[i][v] += a[(row + i) * p.k + k] * weights;
    }
  }
  dispatch(p.dtypeC, [&](auto zero) {
    for (int i = 0; i < rows; i++) {
      auto* out = static_cast<decltype(zero)*>(c) + (row + i) * p.n + column;
      const int64_t left = p.n - column;
      if (left >= vectors * lanes) {
        for (int v = 0; v < vectors; v++) store(out + v * lanes, sums[i][v]);
      } else {
        for (int j = 0; j < left; j++) out[j] = fromFloat<decltype(zero)>(sums[i][j / lanes][j % lanes]);
      }
    }
  });
}

// Tiles of few rows are wider: as many sums must be under way as an addition takes to come out, twice over.
template <int rows>
constexpr int vectorsOf = rows == 1   ? 8
                          : rows == 2 ? 4
                                      : 2;

// Columns [begin, end), whole panels, of `count` rows.
template <int rows, class W>
HADAL_INLINE void strip(const PackedMatmulParams& p, int64_t count, const float* a, const W* packed, void* c,
                        int64_t row, int64_t begin, int64_t end) {
  if constexpr (rows > 0) {
    if (count != rows) return strip<rows - 1>(p, count, a, packed, c, row, begin, end);
    constexpr int64_t wide = vectorsOf<rows> * lanes, narrow = 2 * lanes;
    for (; begin + wide <= end; begin += wide) tile<rows, vectorsOf<rows>>(p, a, packed, c, row, begin);
    for (; begin < end; begin += narrow) tile<rows, 2>(p, a, packed, c, row, begin);
  }
}

// Rows of a thread's share of columns: as many panels as stay in the second-level cache serve all rows, tile by tile.
template <class W>
void multiplyColumns(const PackedMatmulParams& p, const float* a, const W* packed, void* c, int64_t begin,
                     int64_t end) {
  constexpr int64_t cached = 512 * 1024;
  const int64_t fitting = cached / (p.k * panelColumns * static_cast<int64_t>(sizeof(W)) + 1);
  const int64_t tiles = (p.m + tileRows - 1) / tileRows;
  const int64_t step = tiles == 1 ? end - begin : (fitting < 1 ? 1 : fitting) * panelColumns;
  for (int64_t column = begin; column < end; column += step) {
    const int64_t last = column + step < end ? column + step : end;
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t row = p.m * i / tiles, count = p.m * (i + 1) / tiles - row;
      strip<tileRows>(p, count, a, packed, c, row, column, last);
    }
  }
}

int64_t workspace(const PackedMatmulParams& p, int) { return p.dtypeA == DType::fp32 ? 0 : p.batch * p.m * p.k * 4; }

void run(const PackedMatmulParams& p, void* const* buffers, RunContext& context) {
  const float* a = static_cast<const float*>(buffers[0]);
  if (p.dtypeA != DType::fp32) {
    float* converted = static_cast<float*>(context.workspace);
    dispatch(p.dtypeA, [&](auto zero) {
      const auto* from = static_cast<const decltype(zero)*>(buffers[0]);
      forLanes(p.batch * p.m * p.k, [&](int64_t i, auto part) { store(converted + i, part, load(from + i, part)); });
    });
    a = converted;
  }
  dispatch(p.dtypeW, [&](auto zero) {
    using W = decltype(zero);
    // A share of 128 KiB of weights is read in about the time that a sleeping thread takes to wake.
    const int64_t grain = 1 + 131072 / (p.k * panelColumns * static_cast<int64_t>(sizeof(W)) + 1);
    const int64_t panels = p.panels();
    parallelFor(p.batch * panels, context.threads, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t first = begin, last; first < end; first = last) {
        const int64_t item = first / panels, at = item * panels;
        last = end < at + panels ? end : at + panels;
        multiplyColumns(p, a + item * p.m * p.k, static_cast<const W*>(buffers[1]) + at * panelColumns * p.k,
                        static_cast<char*>(buffers[2]) + item * p.m * p.n * bytesOf(p.dtypeC),
                        (first - at) * panelColumns, (last - at) * panelColumns);
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(packWeights, PackWeightsParams, packAny)
HADAL_KERNEL_WITH_WORKSPACE(packedMatmul, PackedMatmulParams, run, workspace)

}  // namespace HADAL_ISA
}  // namespace hadal
