// Formulas, shapes, bytes: native/ops/orthogonalize.h. A block takes a matrix at a time, whose columns lie in the workspace in
// double; a thread has the same rows of every column, so that it alone reads what it writes. What is subtracted of one column
// and the product with the next are one pass.
#include "ops/orthogonalize.h"

#include <algorithm>

#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace orthogonalize_kernels {

// Of a block: thousands of rows are some ten a thread, whose loads hide each other's latency.
constexpr int rowThreads = 512;
// Blocks a multiprocessor: what one waits for at its barriers the others use.
constexpr int blocksEach = 2;

struct Shared {
  double sums[rowThreads / warpSize];
  int32_t counts[rowThreads / warpSize];
};

int64_t blocksOf(const OrthogonalizeParams& p, int64_t processors) {
  return std::min(p.batch, processors * blocksEach);
}

int64_t workspaceBytes(const OrthogonalizeParams& p, int processors) {
  return blocksOf(p, processors) * p.rows * p.columns * static_cast<int64_t>(sizeof(double));
}

__device__ double dot(const double* a, const double* b, int64_t rows, double* shared) {
  double total = 0;
  for (int64_t row = threadIdx.x; row < rows; row += rowThreads) total += a[row] * b[row];
  return blockSum<rowThreads>(total, shared);
}

// The length of what is left of column j beside the columns before it; twice, since what rounding leaves counts where little
// is left.
__device__ double project(double* columns, int64_t rows, int64_t j, double* shared) {
  double* const y = columns + j * rows;
  if (j == 0) return sqrt(dot(y, y, rows, shared));
  double share = dot(columns, y, rows, shared);
  for (int64_t step = 0; step < 2 * j; step++) {
    const double* const before = columns + step % j * rows;
    const double* const after = step + 1 == 2 * j ? y : columns + (step + 1) % j * rows;
    double total = 0;
    for (int64_t row = threadIdx.x; row < rows; row += rowThreads) {
      const double left = y[row] - share * before[row];
      y[row] = left;
      total += left * (after == y ? left : after[row]);
    }
    share = blockSum<rowThreads>(total, shared);
  }
  return sqrt(share);
}

__device__ void orthogonalizeOne(const OrthogonalizeParams& p, const float* x, float* y, double* columns, Shared& s) {
  const int64_t size = p.rows * p.columns;
  int32_t isBad = 0;
  for (int64_t i = threadIdx.x; i < size; i += rowThreads) {
    isBad |= !isfinite(x[i]);
    columns[i % p.columns * p.rows + i / p.columns] = static_cast<double>(x[i]);
  }
  // Its barriers also hand the numbers to those who have their rows.
  const bool isFinite = blockSum<rowThreads>(isBad, s.counts) == 0;
  for (int64_t j = 0; j < p.columns && isFinite; j++) {
    double* const column = columns + j * p.rows;
    const double norm = sqrt(dot(column, column, p.rows, s.sums));
    double left = project(columns, p.rows, j, s.sums);
    for (int64_t attempt = 0; !(left > 1e-6 * norm); attempt++) {
      for (int64_t row = threadIdx.x; row < p.rows; row += rowThreads)
        column[row] = orthogonalizeRandom(row, j + attempt * p.columns);
      left = project(columns, p.rows, j, s.sums);
      if (left > 1e-3 || attempt == 64) break;
    }
    for (int64_t row = threadIdx.x; row < p.rows; row += rowThreads) column[row] /= left;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < size; i += rowThreads)
    y[i] = isFinite ? static_cast<float>(columns[i % p.columns * p.rows + i / p.columns]) : NAN;
  __syncthreads();
}

__device__ void orthogonalizeAll(OrthogonalizeParams p, const float* x, float* y, double* workspace) {
  auto& s = shared<Shared>();
  const int64_t size = p.rows * p.columns;
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x)
    orthogonalizeOne(p, x + b * size, y + b * size, workspace + blockIdx.x * size, s);
}

void run(const OrthogonalizeParams& p, void* const* b, RunContext& context) {
  if (p.rows * p.columns == 0) return;
  const auto blocks = static_cast<unsigned>(blocksOf(p, context.processors));
  launch<orthogonalizeAll, rowThreads, blocksEach>(context, {.x = blocks, .sharedBytes = sizeof(Shared)}, p,
                                                   static_cast<const float*>(b[0]), static_cast<float*>(b[1]),
                                                   static_cast<double*>(context.workspace));
}

}  // namespace orthogonalize_kernels

HADAL_KERNEL_WITH_WORKSPACE(orthogonalize, OrthogonalizeParams, orthogonalize_kernels::run,
                            orthogonalize_kernels::workspaceBytes)

}  // namespace cuda
}  // namespace hadal
