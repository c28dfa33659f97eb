// Formulas, shapes, bytes: native/ops/rms-norm.h. A warp takes a row of up to 2 KB, a block of 256 threads a longer one.
#include "ops/rms-norm.h"

#include "cuda/column-sums.cuh"

namespace hadal {
namespace cuda {
namespace rms_norm {

// y and sums may be the memory of x or residual: a thread writes what it has read for the last time.
template <class T>
__device__ void forward(RmsNormParams p, int rowThreads, const T* x, const T* residual, const void* weight, T* y,
                        float* rstd, T* sums, bool isWide) {
  constexpr int n = packed<T>;
  auto& s = shared<RowShared>();
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / rowThreads;
  if (row >= p.rows) return;
  const int64_t at = row * p.dim, first = static_cast<int64_t>(threadIdx.x % rowThreads) * n, stride = rowThreads * n;
  const auto input = [&](int64_t i) {
    Pack<T, n> v = loadPack<T, n>(x + at + i, p.dim - i, isWide);
    if (residual) addPack(v, loadPack<T, n>(residual + at + i, p.dim - i, isWide));
    return v;
  };
  float squares = 0;
  for (int64_t i = first; i < p.dim; i += stride) {
    const Pack<T, n> v = input(i);
#pragma unroll
    for (int j = 0; j < n; j++) squares += toFloat(v.at[j]) * toFloat(v.at[j]);
  }
  const float mean = rowSum(squares, rowThreads, s.warps) / static_cast<float>(p.dim);
  const float r = 1.0f / sqrtf(mean + static_cast<float>(p.eps));
  if (first == 0) rstd[row] = r;
  for (int64_t i = first; i < p.dim; i += stride) {
    const Pack<T, n> v = input(i);
    float w[n];
    loadNumbers(w, weight, p.weightDtype, i, p.dim - i, isWide);
#pragma unroll
    for (int j = 0; j < n; j++) w[j] *= toFloat(v.at[j]) * r;
    if (residual) storePack(sums + at + i, p.dim - i, isWide, v);
    storeNumbers(y + at + i, p.dim - i, isWide, w);
  }
}

void run(const RmsNormParams& p, const void* x, const void* residual, const void* weight, void* y, void* rstd,
         void* sums, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const int rowThreads = rowThreadsFor(p.dim * static_cast<int64_t>(sizeof(T)));
    launch<forward<T>, threads>(
        context, {.x = blocksFor(p.rows, threads / rowThreads), .sharedBytes = sizeof(RowShared)}, p, rowThreads,
        static_cast<const T*>(x), static_cast<const T*>(residual), weight, static_cast<T*>(y),
        static_cast<float*>(rstd), static_cast<T*>(sums), areWide<T>(p.dim, x, residual, weight, y, sums));
  });
}
void runPlain(const RmsNormParams& p, void* const* b, RunContext& context) {
  run(p, b[0], nullptr, b[1], b[2], b[3], nullptr, context);
}
void runAdd(const AddRmsNormParams& p, void* const* b, RunContext& context) {
  run(p, b[0], b[1], b[2], b[3], b[4], b[5], context);
}

// ---- dx = rstd · (w·dy − x̂ · mean(w·dy·x̂)) + dsum, dweight = Σ_rows dy · x̂, with x̂ = x · rstd. Columns of dweight are summed
// by shares of the rows (ColumnSums), those by sumParts.

// dx may be the memory of dy, x or dsum.
template <class T>
__device__ void backward(RmsNormParams p, int rowThreads, RowShares shares, const T* dy, const T* x, const void* weight,
                         const float* rstd, const T* dsum, T* dx, bool isWide) {
  constexpr int n = packed<T>;
  auto& s = shared<RowShared>();
  ColumnSums<1, n> sums(shares, p.dim, rowThreads, &s + 1);
  const int64_t first = static_cast<int64_t>(threadIdx.x % rowThreads) * n, stride = rowThreads * n;
  for (int64_t row = sums.firstRow(); row < sums.endOfRows(p.rows); row += threads / rowThreads) {
    const int64_t at = row * p.dim;
    const float r = rstd[row];
    float dot = 0;
    for (int64_t i = first; i < p.dim; i += stride) {
      float g[n], v[n], w[n];
      loadNumbers(g, dy + at + i, p.dim - i, isWide);
      loadNumbers(v, x + at + i, p.dim - i, isWide);
      loadNumbers(w, weight, p.weightDtype, i, p.dim - i, isWide);
#pragma unroll
      for (int j = 0; j < n; j++) {
        v[j] *= g[j] * r;
        dot += v[j] * w[j];
      }
      sums.add(0, i, v);
    }
    const float mean = rowSum(dot, rowThreads, s.warps) / static_cast<float>(p.dim);
    for (int64_t i = first; i < p.dim; i += stride) {
      float d[n], v[n], w[n];
      loadNumbers(d, dy + at + i, p.dim - i, isWide);
      loadNumbers(v, x + at + i, p.dim - i, isWide);
      loadNumbers(w, weight, p.weightDtype, i, p.dim - i, isWide);
#pragma unroll
      for (int j = 0; j < n; j++) d[j] = r * (d[j] * w[j] - v[j] * r * mean);
      if (dsum) {
        loadNumbers(v, dsum + at + i, p.dim - i, isWide);
#pragma unroll
        for (int j = 0; j < n; j++) d[j] += v[j];
      }
      storeNumbers(dx + at + i, p.dim - i, isWide, d);
    }
  }
  sums.finish();
}

int64_t backwardWorkspace(const RmsNormParams& p, int) { return RowShares::workspaceBytes(p.rows, p.dim, 1); }

void runBackward(const RmsNormBackwardParams& p, void* const* b, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const int rowThreads = rowThreadsFor(p.dim * static_cast<int64_t>(sizeof(T)));
    const RowShares shares = RowShares::of(p.rows, p.dim, 1, packed<T>, rowThreads, context.workspace);
    launch<backward<T>, threads>(
        context, {.x = static_cast<unsigned>(shares.count), .sharedBytes = sizeof(RowShared) + shares.sharedBytes},
        static_cast<const RmsNormParams&>(p), rowThreads, shares, static_cast<const T*>(b[0]),
        static_cast<const T*>(b[1]), static_cast<const void*>(b[2]), static_cast<const float*>(b[3]),
        static_cast<const T*>(b[4]), static_cast<T*>(b[5]), areWide<T>(p.dim, b[0], b[1], b[2], b[4], b[5]));
    shares.total(context, p.dim, 0, b[6], p.weightDtype);
  });
}

}  // namespace rms_norm

HADAL_KERNEL(rmsNorm, RmsNormParams, rms_norm::runPlain)
HADAL_KERNEL(addRmsNorm, AddRmsNormParams, rms_norm::runAdd)
HADAL_KERNEL_WITH_WORKSPACE(rmsNormBackward, RmsNormBackwardParams, rms_norm::runBackward, rms_norm::backwardWorkspace)

}  // namespace cuda
}  // namespace hadal
