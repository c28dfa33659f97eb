// Formulas, shapes, bytes: native/ops/layer-norm.h. A warp takes a row of up to 2 KB, a block of 256 threads a longer one.
#include "ops/layer-norm.h"

#include "cuda/column-sums.cuh"

namespace hadal {
namespace cuda {
namespace layer_norm {

// y and sums may be the memory of x or residual: a thread writes what it has read for the last time.
template <class T>
__device__ void forward(LayerNormParams p, int rowThreads, const T* x, const T* residual, const void* weight,
                        const void* bias, T* y, float* means, float* rstds, T* sums, bool isWide) {
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
  float total = 0;
  for (int64_t i = first; i < p.dim; i += stride) {
    const Pack<T, n> v = input(i);
#pragma unroll
    for (int j = 0; j < n; j++) total += toFloat(v.at[j]);
  }
  const float mean = rowSum(total, rowThreads, s.warps) / static_cast<float>(p.dim);
  // In a second pass: E[x²] − E[x]² would cancel.
  float squares = 0;
  for (int64_t i = first; i < p.dim; i += stride) {
    const Pack<T, n> v = input(i);
#pragma unroll
    for (int j = 0; j < n; j++) {
      const float centred = i + j < p.dim ? toFloat(v.at[j]) - mean : 0;
      squares += centred * centred;
    }
  }
  const float variance = rowSum(squares, rowThreads, s.warps) / static_cast<float>(p.dim);
  const float rstd = 1.0f / sqrtf(variance + static_cast<float>(p.eps));
  if (first == 0) means[row] = mean, rstds[row] = rstd;
  for (int64_t i = first; i < p.dim; i += stride) {
    const Pack<T, n> v = input(i);
    float w[n], b[n];
    loadNumbers(w, weight, p.weightDtype, i, p.dim - i, isWide);
    loadNumbers(b, bias, p.weightDtype, i, p.dim - i, isWide);
#pragma unroll
    for (int j = 0; j < n; j++) w[j] = (toFloat(v.at[j]) - mean) * rstd * w[j] + b[j];
    if (residual) storePack(sums + at + i, p.dim - i, isWide, v);
    storeNumbers(y + at + i, p.dim - i, isWide, w);
  }
}

// `rest`: weight, bias, y, mean, rstd and, with a residual, sum.
void run(const LayerNormParams& p, const void* x, const void* residual, void* const* rest, RunContext& context) {
  void* const sums = residual ? rest[5] : nullptr;
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const int rowThreads = rowThreadsFor(p.dim * static_cast<int64_t>(sizeof(T)));
    launch<forward<T>, threads>(context,
                                {.x = blocksFor(p.rows, threads / rowThreads), .sharedBytes = sizeof(RowShared)}, p,
                                rowThreads, static_cast<const T*>(x), static_cast<const T*>(residual),
                                static_cast<const void*>(rest[0]), static_cast<const void*>(rest[1]),
                                static_cast<T*>(rest[2]), static_cast<float*>(rest[3]), static_cast<float*>(rest[4]),
                                static_cast<T*>(sums), areWide<T>(p.dim, x, residual, rest[0], rest[1], rest[2], sums));
  });
}
void runPlain(const LayerNormParams& p, void* const* b, RunContext& context) { run(p, b[0], nullptr, b + 1, context); }
void runAdd(const AddLayerNormParams& p, void* const* b, RunContext& context) { run(p, b[0], b[1], b + 2, context); }

// ---- dx = rstd · (w·dy − mean(w·dy) − x̂ · mean(w·dy·x̂)) + dsum, dweight = Σ_rows dy · x̂, dbias = Σ_rows dy, with
// x̂ = (x − mean) · rstd. Columns of dweight and dbias are summed by shares of the rows (column-sums.cuh).

// dx may be the memory of dy, x or dsum.
template <class T>
__device__ void backward(LayerNormParams p, int rowThreads, RowShares shares, const T* dy, const T* x,
                         const void* weight, const float* means, const float* rstds, const T* dsum, T* dx,
                         bool isWide) {
  constexpr int n = packed<T>;
  auto& s = shared<RowShared>();
  ColumnSums<2, n> sums(shares, p.dim, rowThreads, &s + 1);
  const int64_t first = static_cast<int64_t>(threadIdx.x % rowThreads) * n, stride = rowThreads * n;
  for (int64_t row = sums.firstRow(); row < sums.endOfRows(p.rows); row += threads / rowThreads) {
    const int64_t at = row * p.dim;
    const float mean = means[row], rstd = rstds[row];
    float total = 0, dot = 0;
    for (int64_t i = first; i < p.dim; i += stride) {
      float g[n], v[n], w[n];
      loadNumbers(g, dy + at + i, p.dim - i, isWide);  // zeros beyond the row, which then give nothing
      loadNumbers(v, x + at + i, p.dim - i, isWide);
      loadNumbers(w, weight, p.weightDtype, i, p.dim - i, isWide);
#pragma unroll
      for (int j = 0; j < n; j++) {
        v[j] = g[j] * ((v[j] - mean) * rstd);
        total += g[j] * w[j];
        dot += v[j] * w[j];
      }
      sums.add(0, i, v);
      sums.add(1, i, g);
    }
    const float meanSum = rowSum(total, rowThreads, s.warps) / static_cast<float>(p.dim);
    const float meanDot = rowSum(dot, rowThreads, s.warps) / static_cast<float>(p.dim);
    for (int64_t i = first; i < p.dim; i += stride) {
      float d[n], v[n], w[n];
      loadNumbers(d, dy + at + i, p.dim - i, isWide);
      loadNumbers(v, x + at + i, p.dim - i, isWide);
      loadNumbers(w, weight, p.weightDtype, i, p.dim - i, isWide);
#pragma unroll
      for (int j = 0; j < n; j++) d[j] = rstd * (d[j] * w[j] - meanSum - (v[j] - mean) * rstd * meanDot);
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

int64_t backwardWorkspace(const LayerNormParams& p, int) { return RowShares::workspaceBytes(p.rows, p.dim, 2); }

void runBackward(const LayerNormBackwardParams& p, void* const* b, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const int rowThreads = rowThreadsFor(p.dim * static_cast<int64_t>(sizeof(T)));
    const RowShares shares = RowShares::of(p.rows, p.dim, 2, packed<T>, rowThreads, context.workspace);
    launch<backward<T>, threads>(
        context, {.x = static_cast<unsigned>(shares.count), .sharedBytes = sizeof(RowShared) + shares.sharedBytes},
        static_cast<const LayerNormParams&>(p), rowThreads, shares, static_cast<const T*>(b[0]),
        static_cast<const T*>(b[1]), static_cast<const void*>(b[2]), static_cast<const float*>(b[3]),
        static_cast<const float*>(b[4]), static_cast<const T*>(b[5]), static_cast<T*>(b[6]),
        areWide<T>(p.dim, b[0], b[1], b[2], b[5], b[6]));
    shares.total(context, p.dim, 0, b[7], p.weightDtype);
    shares.total(context, p.dim, 1, b[8], p.weightDtype);
  });
}

}  // namespace layer_norm

HADAL_KERNEL(layerNorm, LayerNormParams, layer_norm::runPlain)
HADAL_KERNEL(addLayerNorm, AddLayerNormParams, layer_norm::runAdd)
HADAL_KERNEL_WITH_WORKSPACE(layerNormBackward, LayerNormBackwardParams, layer_norm::runBackward,
                            layer_norm::backwardWorkspace)

}  // namespace cuda
}  // namespace hadal
