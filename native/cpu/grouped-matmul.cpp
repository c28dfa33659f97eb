#include "ops/grouped-matmul.h"

#include <omp.h>

#include "cpu/matmul.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Whether every group lies within the rows, after the one before it.
HADAL_INLINE bool checkOffsets(const int32_t* offsets, int64_t groups, int64_t rows, RunContext& context) {
  for (int64_t e = 0; e <= groups; e++) {
    const int64_t least = e == 0 ? 0 : offsets[e - 1];
    if (offsets[e] >= least && offsets[e] <= rows) continue;
    context.fail("[grouped-matmul] expected offsets[%d] in %d..%d, got %d", static_cast<int>(e),
                 static_cast<int>(least), static_cast<int>(rows), static_cast<int>(offsets[e]));
    return false;
  }
  return true;
}

// Calls body(item, workspace) for every item, each on one thread. Groups differ in size, so threads take items as they become
// free; which thread computes an item does not change its bits.
template <class Body>
HADAL_INLINE void forEachItem(int64_t items, RunContext& context, int64_t bytesAThread, Body&& body) {
  char* workspace = static_cast<char*>(context.workspace);
#pragma omp parallel for schedule(dynamic, 1) num_threads(context.threads)
  for (int64_t item = 0; item < items; item++) body(item, workspace + omp_get_thread_num() * bytesAThread);
}

// ---- y_e = x_e · op(w_e). An item is up to rowsAnItem rows of one group.

// Enough rows to pay for packing the weights, few enough to keep the threads evenly busy.
HADAL_INLINE int64_t rowsAnItem(int64_t rows, int threads) {
  const int64_t share = (rows / (4 * threads) + 15) / 16 * 16;
  return share < 32 ? 32 : share > 256 ? 256 : share;
}

int64_t forwardWorkspace(const GroupedMatmulParams& p, int threads) {
  return threads * productWorkspace(p.rows < 256 ? p.rows : 256, p.n, p.dtypeY, 1) + (p.groups + 1) * 8;
}

void forward(const GroupedMatmulParams& p, void* const* buffers, RunContext& context) {
  const char* x = static_cast<const char*>(buffers[0]);
  const char* w = static_cast<const char*>(buffers[1]);
  const int32_t* offsets = static_cast<const int32_t*>(buffers[2]);
  char* y = static_cast<char*>(buffers[3]);
  if (!checkOffsets(offsets, p.groups, p.rows, context)) return;

  const int64_t bytesAThread = productWorkspace(p.rows < 256 ? p.rows : 256, p.n, p.dtypeY, 1);
  int64_t* firstItem =
      reinterpret_cast<int64_t*>(static_cast<char*>(context.workspace) + context.threads * bytesAThread);
  const int64_t step = rowsAnItem(p.rows, context.threads);
  firstItem[0] = 0;
  for (int64_t e = 0; e < p.groups; e++)
    firstItem[e + 1] = firstItem[e] + (offsets[e + 1] - offsets[e] + step - 1) / step;

  forEachItem(firstItem[p.groups], context, bytesAThread, [&](int64_t item, void* workspace) {
    int64_t e = 0;
    while (firstItem[e + 1] <= item) e++;
    const int64_t row = offsets[e] + (item - firstItem[e]) * step, left = offsets[e + 1] - row;
    const Factor rows{x + row * p.k * bytesOf(p.dtypeX), p.k, false, p.dtypeX};
    const Factor weight{w + e * p.k * p.n * bytesOf(p.dtypeW), p.transposeB ? p.k : p.n, p.transposeB != 0, p.dtypeW};
    void* out = y + row * p.n * bytesOf(p.dtypeY);
    runProduct(Product{left < step ? left : step, p.n, p.k, rows, weight, out, p.n, p.dtypeY, false}, 1, workspace);
  });
}

// ---- c_e = a_eᵀ · b_e (+ addend_e). An item is up to 256 rows of one c_e.

constexpr int64_t gradientRows = 256;

int64_t gradientWorkspace(const GroupedMatmulWeightGradientParams& p, int threads) {
  return threads * productWorkspace(p.m < gradientRows ? p.m : gradientRows, p.n, p.dtypeC, 1);
}

void gradient(const GroupedMatmulWeightGradientParams& p, void* const* buffers, RunContext& context) {
  const char* a = static_cast<const char*>(buffers[0]);
  const char* b = static_cast<const char*>(buffers[1]);
  const int32_t* offsets = static_cast<const int32_t*>(buffers[2]);
  const char* addend = static_cast<const char*>(buffers[3]);
  char* c = static_cast<char*>(buffers[4]);
  if (!checkOffsets(offsets, p.groups, p.rows, context)) return;

  const int64_t parts = (p.m + gradientRows - 1) / gradientRows;
  forEachItem(p.groups * parts, context, gradientWorkspace(p, 1), [&](int64_t item, void* workspace) {
    const int64_t e = item / parts, row = item % parts * gradientRows;
    const int64_t begin = offsets[e], rows = p.m - row < gradientRows ? p.m - row : gradientRows;
    const Factor left{a + (begin * p.m + row) * bytesOf(p.dtypeA), p.m, true, p.dtypeA};
    const Factor right{b + begin * p.n * bytesOf(p.dtypeB), p.n, false, p.dtypeB};
    const int64_t at = (e * p.m + row) * p.n * bytesOf(p.dtypeC);
    const Addend added = addend ? Addend{addend + at, p.n, p.dtypeC} : Addend{};
    runProduct(Product{rows, p.n, offsets[e + 1] - begin, left, right, c + at, p.n, p.dtypeC, false, added}, 1,
               workspace);
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(groupedMatmul, GroupedMatmulParams, forward, forwardWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(groupedMatmulWeightGradient, GroupedMatmulWeightGradientParams, gradient, gradientWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
