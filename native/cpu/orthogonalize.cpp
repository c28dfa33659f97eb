#include "ops/orthogonalize.h"

#include <cmath>
#include <limits>

#include "core/threads.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Sums beside each other: one alone would wait for each addition. Their number is that of the widest vectors, on all machines.
constexpr int64_t sums = 8;

// One matrix, column by column, for each thread.
int64_t workspaceBytes(const OrthogonalizeParams& p, int threads) { return threads * p.rows * p.columns * 8; }

HADAL_INLINE double dot(const double* a, const double* b, int64_t n) {
  double total[sums] = {};
  int64_t i = 0;
  for (; i + sums <= n; i += sums)
    for (int64_t s = 0; s < sums; s++) total[s] += a[i + s] * b[i + s];
  for (; i < n; i++) total[0] += a[i] * b[i];
  for (int64_t s = 1; s < sums; s++) total[0] += total[s];
  return total[0];
}

// What is left of column j beside the columns before it; twice, since what rounding leaves counts where little is left.
HADAL_INLINE double project(double* columns, int64_t rows, int64_t j) {
  double* y = columns + j * rows;
  for (int round = 0; round < 2; round++)
    for (int64_t i = 0; i < j; i++) {
      const double* before = columns + i * rows;
      const double share = dot(before, y, rows);
      for (int64_t row = 0; row < rows; row++) y[row] -= share * before[row];
    }
  return std::sqrt(dot(y, y, rows));
}

HADAL_INLINE void orthogonalizeOne(const float* x, float* y, double* columns, int64_t rows, int64_t count) {
  bool isFinite = true;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t j = 0; j < count; j++) {
      const float number = x[row * count + j];
      isFinite = isFinite && std::isfinite(number);
      columns[j * rows + row] = static_cast<double>(number);
    }
  for (int64_t j = 0; j < count && isFinite; j++) {
    double* column = columns + j * rows;
    const double norm = std::sqrt(dot(column, column, rows));
    double left = project(columns, rows, j);
    for (int64_t attempt = 0; !(left > 1e-6 * norm); attempt++) {
      for (int64_t row = 0; row < rows; row++) column[row] = orthogonalizeRandom(row, j + attempt * count);
      left = project(columns, rows, j);
      if (left > 1e-3 || attempt == 64) break;
    }
    for (int64_t row = 0; row < rows; row++) column[row] /= left;
  }
  for (int64_t row = 0; row < rows; row++)
    for (int64_t j = 0; j < count; j++) {
      y[row * count + j] =
          isFinite ? static_cast<float>(columns[j * rows + row]) : std::numeric_limits<float>::quiet_NaN();
    }
}

void run(const OrthogonalizeParams& p, void* const* buffers, RunContext& context) {
  const float* x = static_cast<const float*>(buffers[0]);
  float* y = static_cast<float*>(buffers[1]);
  const int64_t size = p.rows * p.columns;
  parallelFor(p.batch, context.threads, 1, [&](int64_t begin, int64_t end, int t) {
    double* columns = static_cast<double*>(context.workspace) + t * size;
    for (int64_t b = begin; b < end; b++) orthogonalizeOne(x + b * size, y + b * size, columns, p.rows, p.columns);
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(orthogonalize, OrthogonalizeParams, run, workspaceBytes)

}  // namespace HADAL_ISA
}  // namespace hadal
