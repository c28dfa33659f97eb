// Formulas, shapes, bytes: native/ops/orthogonalize.h. A block of threads takes a matrix, whose columns lie in the workspace in
// double. Compiled by scripts/check-cuda.mjs; has not run on hardware yet.
#include "cuda/launch.cuh"
// After launch.cuh, which makes its helpers run on the device.
#include "ops/orthogonalize.h"

namespace hadal {
namespace cuda {
namespace {

__device__ double dot(const double* a, const double* b, int64_t n, double* shared) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += threads) total += a[i] * b[i];
  return blockSum(total, shared);
}

// What is left of column j beside the columns before it.
__device__ double project(double* columns, int64_t rows, int64_t j, double* shared) {
  double* y = columns + j * rows;
  for (int round = 0; round < 2; round++)
    for (int64_t i = 0; i < j; i++) {
      const double* before = columns + i * rows;
      const double share = dot(before, y, rows, shared);
      for (int64_t row = threadIdx.x; row < rows; row += threads) y[row] -= share * before[row];
      __syncthreads();
    }
  return sqrt(dot(y, y, rows, shared));
}

__global__ void orthogonalizeKernel(OrthogonalizeParams p, const float* x, float* y, double* workspace) {
  __shared__ double shared[warps];
  const int64_t size = p.rows * p.columns, first = static_cast<int64_t>(blockIdx.x) * size;
  double* columns = workspace + first;
  bool isFinite = true;
  for (int64_t i = threadIdx.x; i < size; i += threads) {
    const float number = x[first + i];
    isFinite = isFinite && isfinite(number);
    columns[i % p.columns * p.rows + i / p.columns] = static_cast<double>(number);
  }
  isFinite = __syncthreads_and(isFinite);
  for (int64_t j = 0; j < p.columns && isFinite; j++) {
    double* column = columns + j * p.rows;
    const double norm = sqrt(dot(column, column, p.rows, shared));
    double left = project(columns, p.rows, j, shared);
    for (int64_t attempt = 0; !(left > 1e-6 * norm); attempt++) {
      for (int64_t row = threadIdx.x; row < p.rows; row += threads)
        column[row] = orthogonalizeRandom(row, j + attempt * p.columns);
      __syncthreads();
      left = project(columns, p.rows, j, shared);
      if (left > 1e-3 || attempt == 64) break;
    }
    for (int64_t row = threadIdx.x; row < p.rows; row += threads) column[row] /= left;
    __syncthreads();
  }
  for (int64_t i = threadIdx.x; i < size; i += threads) {
    y[first + i] = isFinite ? static_cast<float>(columns[i % p.columns * p.rows + i / p.columns]) : nanf("");
  }
}

}  // namespace

int64_t orthogonalizeWorkspaceBytes(const OrthogonalizeParams& p) { return p.batch * p.rows * p.columns * 8; }

// Buffers in the order of the contract.
cudaError_t launchOrthogonalize(const OrthogonalizeParams& p, void* const* buffers, Launch launch) {
  if (p.batch * p.rows * p.columns == 0) return cudaSuccess;
  if (p.batch > 0x7fffffff) return cudaErrorInvalidValue;
  orthogonalizeKernel<<<static_cast<unsigned>(p.batch), threads, 0, launch.stream>>>(
      p, static_cast<const float*>(buffers[0]), static_cast<float*>(buffers[1]),
      static_cast<double*>(launch.workspace));
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace hadal
