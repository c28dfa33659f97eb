// Small products in registers: c = start + a · b. Numbers are fp32, or pairs of bf16 along the depth in one uint32.
#pragma once
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Block of a product that is held in registers: 24 of AVX-512's 32, 12 of the 16 of AVX2 and SSE.
constexpr int blockVectors = lanes == 16 ? 4 : 2;
constexpr int blockRows(int vectors) { return lanes == 16 && vectors < 4 ? 8 : 6; }  // even

// Element (i, d) lies at i · row + d · depth.
template <class Number>
struct Left {
  const Number* at;
  int64_t row, depth;
};

// Not Vec, which may lie anywhere and alias anything: GCC 12 would store the sums in every turn of the loop.
typedef float Sum __attribute__((vector_size(lanes * 4)));

HADAL_INLINE Sum multiplyAdd(Sum sum, float a, const float* b) { return sum + a * load(b); }
HADAL_INLINE Sum multiplyAdd(Sum sum, uint32_t a, const uint32_t* b) {
  return dotPairs(sum, UVec{} + a, *reinterpret_cast<const UVec*>(b));
}

template <int rows, int vectors, class Number, class Start, class Finish>
HADAL_INLINE void block(int64_t i, int64_t j, int64_t depth, Left<Number> a, const Number* b, int64_t bRow,
                        const Start& start, const Finish& finish) {
  Sum sums[rows][vectors];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) sums[r][v] = start(i + r, j + v * lanes);
  const Number* left = a.at + i * a.row;
  for (int64_t d = 0; d < depth; d++, left += a.depth, b += bRow)
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < vectors; v++) sums[r][v] = multiplyAdd(sums[r][v], left[r * a.row], b + v * lanes);
  finish(sums, i, j);
}

// The last rows, fewer than a whole block of them.
template <int rows, int vectors, class Number, class Start, class Finish>
HADAL_INLINE void lastRows(int64_t count, int64_t i, int64_t j, int64_t depth, Left<Number> a, const Number* b,
                           int64_t bRow, const Start& start, const Finish& finish) {
  if constexpr (rows > 0) {
    if (count == rows) return block<rows, vectors>(i, j, depth, a, b, bRow, start, finish);
    lastRows<rows - 1, vectors>(count, i, j, depth, a, b, bRow, start, finish);
  }
}

template <int vectors, class Number, class Start, class Finish>
__attribute__((noinline)) void strip(int64_t rows, int64_t j, int64_t depth, Left<Number> a, const Number* b,
                                     int64_t bRow, const Start& start, const Finish& finish) {
  constexpr int most = blockRows(vectors);
  int64_t i = 0;
  for (; i + most <= rows; i += most) block<most, vectors>(i, j, depth, a, b, bRow, start, finish);
  lastRows<most - 1, vectors>(rows - i, i, j, depth, a, b, bRow, start, finish);
}

// start(i, j) is what the vector of row i from column j on begins with. finish(sums[rows][vectors], i, j) takes a block of
// results, whose first row i is even. columns is a multiple of lanes.
template <class Number, class Start, class Finish>
HADAL_INLINE void product(int64_t rows, int64_t columns, int64_t depth, Left<Number> a, const Number* b, int64_t bRow,
                          const Start& start, const Finish& finish) {
  for (int64_t j = 0, now; j < columns; j += now * lanes) {
    const int64_t left = (columns - j) / lanes, strips = (left + blockVectors - 1) / blockVectors;
    now = (left + strips - 1) / strips;  // strips of much the same width
    switch (now) {
      case 1:
        strip<1>(rows, j, depth, a, b + j, bRow, start, finish);
        break;
      case 2:
        strip<2>(rows, j, depth, a, b + j, bRow, start, finish);
        break;
      case 3:
        strip<3>(rows, j, depth, a, b + j, bRow, start, finish);
        break;
      default:
        strip<blockVectors>(rows, j, depth, a, b + j, bRow, start, finish);
    }
  }
}

constexpr auto zero = [](int64_t, int64_t) { return Vec{}; };

struct To {
  float* at;
  int64_t row;
  template <int rows, int vectors>
  HADAL_INLINE void operator()(Sum (&sums)[rows][vectors], int64_t i, int64_t j) const {
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < vectors; v++) store(at + (i + r) * row + j + v * lanes, sums[r][v]);
  }
};

// c += a · b
template <class Number>
HADAL_INLINE void addProduct(int64_t rows, int64_t columns, int64_t depth, Left<Number> a, const Number* b,
                             int64_t bRow, float* c, int64_t cRow) {
  const auto from = [=](int64_t i, int64_t j) { return load(c + i * cRow + j); };
  product(rows, columns, depth, a, b, bRow, from, To{c, cRow});
}

}  // namespace

}  // namespace HADAL_ISA
}  // namespace hadal
