// The matrix product that kernels call: oneDNN where it serves, else the blocked product of matmul.cpp.
#pragma once
#include "core/kernel.h"
#include "cpu/onednn.h"

namespace hadal {
namespace HADAL_ISA {

// Workspace that a product of up to m rows and n columns needs.
int64_t productWorkspace(int64_t m, int64_t n, DType dtypeC, int threads);

// c = op(a)·op(b), or c += … . From within a parallel region: threads = 1, and a workspace for each calling thread.
void runProduct(const Product& product, int threads, void* workspace);

// Address of element (row, column) of op(x).
HADAL_INLINE const void* elementOf(const Factor& x, int64_t row, int64_t column) {
  const int64_t at = x.transposed ? column * x.stride + row : row * x.stride + column;
  return static_cast<const char*>(x.data) + at * bytesOf(x.dtype);
}

}  // namespace HADAL_ISA
}  // namespace hadal
