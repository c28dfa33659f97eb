// What our products of matrices share: how c is cut among threads, and how sums are written.
#pragma once
#include "core/threads.h"
#include "cpu/onednn.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

// What a product adds: `accumulate` is an addend that lies in c itself.
HADAL_INLINE Addend addendOf(const Product& p) { return p.accumulate ? Addend{p.c, p.strideC, p.dtypeC} : p.addend; }

// Rows × columns numbers of c from (i, j) on: x + addend, or the addend alone where x is null. Either may lie in c.
HADAL_INLINE void storeBlock(const float* x, int64_t strideX, const Product& p, int64_t i, int64_t j, int64_t rows,
                             int64_t columns) {
  const Addend addend = addendOf(p);
  dispatch(p.dtypeC, [&](auto zeroC) {
    using C = decltype(zeroC);
    C* c = static_cast<C*>(p.c) + i * p.strideC + j;
    if (!addend.data) {
      for (int64_t row = 0; row < rows; row++)
        forLanes(columns, [&](int64_t at, auto part) {
          store(c + row * p.strideC + at, part, load(x + row * strideX + at, part));
        });
      return;
    }
    dispatch(addend.dtype, [&](auto zeroAddend) {
      const auto* added = static_cast<const decltype(zeroAddend)*>(addend.data) + i * addend.stride + j;
      for (int64_t row = 0; row < rows; row++)
        forLanes(columns, [&](int64_t at, auto part) {
          const Vec sum = load(added + row * addend.stride + at, part);
          store(c + row * p.strideC + at, part, x ? sum + load(x + row * strideX + at, part) : sum);
        });
    });
  });
}

// Calls body(rowBegin, rowEnd, columnBegin, columnEnd, thread) for a grid of one rectangle of c a thread, cut between tiles: the
// grid whose factors have the fewest rows and columns to be packed.
template <class Body>
HADAL_INLINE void forEachRectangle(int64_t m, int64_t n, int64_t tileRows, int64_t tileColumns, int threads,
                                   Body&& body) {
  int64_t down = 1, least = INT64_MAX;
  for (int64_t candidate = 1; candidate <= threads; candidate++) {
    if (threads % candidate != 0) continue;
    const int64_t packed = m * (threads / candidate) + n * candidate;
    if (packed < least) {
      least = packed;
      down = candidate;
    }
  }
  const int64_t across = threads / down;
  const int64_t tilesDown = (m + tileRows - 1) / tileRows, tilesAcross = (n + tileColumns - 1) / tileColumns;
  const auto edge = [](int64_t tiles, int64_t part, int64_t parts, int64_t tile, int64_t size) {
    const int64_t at = tiles * part / parts * tile;
    return at < size ? at : size;
  };
  parallelFor(threads, threads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t part = begin; part < end; part++) {
      const int64_t row = part / across, column = part % across;
      body(edge(tilesDown, row, down, tileRows, m), edge(tilesDown, row + 1, down, tileRows, m),
           edge(tilesAcross, column, across, tileColumns, n), edge(tilesAcross, column + 1, across, tileColumns, n),
           thread);
    }
  });
}

}  // namespace HADAL_ISA
}  // namespace hadal
