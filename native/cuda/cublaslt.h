// Products by NVIDIA's cuBLASLt, which is opened at run time where it is found.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace cuda {
namespace cublaslt {

// c = op(a)·op(b), plus one of a bias (one row for all of c) and an addend (as large as c, which it may be); the sums in fp32, and
// fp32 factors taken as they are. All dense, or a single product of matrices whose rows are a stride apart.
struct Product {
  int64_t batch, m, n, k;
  bool transposeA, transposeB;
  DType dtypeA, dtypeB, dtypeC;
  const void* a;
  const void* b;
  void* c;
  const void* bias = nullptr;
  const void* addend = nullptr;
  DType dtypeAddend = DType::fp32;  // of either
  // Between rows as they lie in memory, the addend's being c's; 0: dense.
  int64_t strideA = 0, strideB = 0, strideC = 0;

  int64_t rowA() const { return strideA > 0 ? strideA : transposeA ? m : k; }
  int64_t rowB() const { return strideB > 0 ? strideB : transposeB ? k : n; }
  int64_t rowC() const { return strideC > 0 ? strideC : n; }
};

// Puts the product on the context's stream and says true, or does nothing and says false: without the library, where a predicate
// decides on the device whether there is to be a product, and for what the library does not take. Its workspace is workspaceBytes()
// bytes, aligned to 16.
bool multiply(const Product& product, void* workspace, RunContext& context);

// What a product may need. Programs are planned on the machine that runs them, and the library is opened once a process, so
// that planner and device get the same answer.
int64_t workspaceBytes();

// "cuBLASLt 13.1.0 (/path)" or why there is none: for people.
const char* status();

}  // namespace cublaslt
}  // namespace cuda
}  // namespace hadal
