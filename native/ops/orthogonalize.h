// Columns made orthonormal, matrix by matrix: what they span stays the same. Gram–Schmidt, each column twice against those
// before it (Giraud et al. 2005, doi:10.1007/s00211-005-0615-4), in double.
//   y_j = (x_j − Σ_{i<j} y_i·(y_i·x_j)) / ‖…‖
// x, y fp32 [B, R, C], C <= R; a column of which less than 1e-6 is left, a zero one too, gives way to one of pseudo-random numbers:
// a base of C columns comes of any x. Random numbers are a hash of row and column, the same on every machine. Where a number
// of a matrix is not finite, all of y is NaN.
// The same bits for any number of threads. Bytes: reads and writes B·R·C.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

struct OrthogonalizeParams {
  int64_t batch, rows, columns;

  const char* check() const {
    if (!sizeFits(batch, rows, columns, 8)) return "expected sizes >= 0 whose product fits in 53 bits";
    if (columns > rows) return "expected no more columns than rows";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList().in("x", batch * rows * columns * 4).out("y", batch * rows * columns * 4);
  }
};

HADAL_CONTRACT(orthogonalize, "orthogonalize", OrthogonalizeParams, batch, rows, columns);

// In [-1, 1): the finalizer of MurmurHash3 of row and column.
HADAL_INLINE constexpr double orthogonalizeRandom(int64_t row, int64_t column) {
  uint32_t h = static_cast<uint32_t>(row) * 0x9e3779b1u + static_cast<uint32_t>(column) * 0x85ebca77u + 1;
  h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
  return static_cast<double>(static_cast<int32_t>(h)) / 2147483648.0;
}

}  // namespace
}  // namespace hadal
