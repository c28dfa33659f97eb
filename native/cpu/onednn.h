// The one door to oneDNN: compiled once, for every instruction set (oneDNN chooses its own code at run time).
// onednn.cpp stands behind it where the library is installed, no-onednn.cpp where it is not.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace hadal {

// One factor of a product: op(x) is x, or its transpose. Row-major; `stride` counts elements between stored rows.
struct Factor {
  const void* data;
  int64_t stride;
  bool transposed;
  DType dtype;
};

// What is added to a product: a matrix of its shape, or one row for all of its rows (stride 0). Null data: nothing.
struct Addend {
  const void* data;
  int64_t stride;
  DType dtype;
};

// c_MN = op(a)_MK · op(b)_KN (+ addend), or c += … where `accumulate` is set. Computed and accumulated in fp32.
struct Product {
  int64_t m, n, k;
  Factor a, b;
  void* c;
  int64_t strideC;
  DType dtypeC;
  bool accumulate;
  Addend addend = {};
};

// "oneDNN 2.6.0", or why it does not serve.
const char* onednnVersion() noexcept;

// Whether oneDNN takes factors of these dtypes on this machine (never with HADAL_NO_ONEDNN=1).
bool onednnTakes(DType a, DType b) noexcept;

// Whether oneDNN multiplies bf16 factors in the machine's tiles (AMX), at many times the speed of vectors.
bool onednnHasBf16Tiles() noexcept;

// Computes a product whose c is fp32 (without its addend). False when oneDNN refuses: then c is untouched. On OpenMP's current number of threads,
// on one thread when called from within a parallel region.
bool onednnProduct(const Product& product) noexcept;

}  // namespace hadal
