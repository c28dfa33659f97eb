// Formulas, shapes, bytes: native/ops/softmax.h. A warp takes a row of up to 2 KB, a block of 256 threads a longer one.
#include "ops/softmax.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace softmax_kernels {

// Where a thread's row begins, or −1 beyond the rows.
__device__ __forceinline__ int64_t rowAt(const SoftmaxParams& p, int rowThreads) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / rowThreads;
  return row < p.rows ? row * p.dim : -1;
}

// What exponents are taken relative to: 0 in place of −inf, from which −inf has no difference.
__device__ __forceinline__ float reference(float most) { return most == -INFINITY ? 0.0f : most; }

// Greatest number and sum of exponentials are found in one pass, the sum scaled down whenever a greater number comes (Milakov
// & Gimelshein 2018, arXiv:1805.02867): rows too long for L1 are read twice, not three times. y may be x's memory.
template <class T>
__device__ void forward(SoftmaxParams p, int rowThreads, const T* x, T* y, bool isWide) {
  constexpr int n = packed<T>;
  auto& s = shared<RowShared>();
  const int64_t at = rowAt(p, rowThreads);
  if (at < 0) return;
  const int64_t first = static_cast<int64_t>(threadIdx.x % rowThreads) * n, stride = rowThreads * n;
  float most = -INFINITY, total = 0;
  for (int64_t i = first; i < p.dim; i += stride) {
    float v[n];
    loadNumbers(v, x + at + i, p.dim - i, isWide);
    float greater = most;
#pragma unroll
    for (int j = 0; j < n; j++) {
      if (i + j >= p.dim) v[j] = -INFINITY;
      greater = fmaxf(greater, v[j]);
    }
    const float base = reference(greater);
    total *= expf(most - base);
#pragma unroll
    for (int j = 0; j < n; j++) total += expf(v[j] - base);
    most = greater;
  }
  const float top = rowMax(most, rowThreads, s.warps), base = reference(top);
  const float sum = rowSum(total * expf(most - base), rowThreads, s.warps);
  // A row that is −inf throughout gives zeros; its NaNs stay.
  const float scale = top == -INFINITY ? 0.0f : 1.0f / sum;
  for (int64_t i = first; i < p.dim; i += stride) {
    float v[n];
    loadNumbers(v, x + at + i, p.dim - i, isWide);
#pragma unroll
    for (int j = 0; j < n; j++) v[j] = expf(v[j] - base) * scale;
    storeNumbers(y + at + i, p.dim - i, isWide, v);
  }
}

// dx may be the memory of dy.
template <class T>
__device__ void backward(SoftmaxParams p, int rowThreads, const T* dy, const T* y, T* dx, bool isWide) {
  constexpr int n = packed<T>;
  auto& s = shared<RowShared>();
  const int64_t at = rowAt(p, rowThreads);
  if (at < 0) return;
  const int64_t first = static_cast<int64_t>(threadIdx.x % rowThreads) * n, stride = rowThreads * n;
  float dot = 0;
  for (int64_t i = first; i < p.dim; i += stride) {
    float d[n], v[n];
    loadNumbers(d, dy + at + i, p.dim - i, isWide);
    loadNumbers(v, y + at + i, p.dim - i, isWide);
#pragma unroll
    for (int j = 0; j < n; j++) dot += v[j] * d[j];
  }
  dot = rowSum(dot, rowThreads, s.warps);
  for (int64_t i = first; i < p.dim; i += stride) {
    float d[n], v[n];
    loadNumbers(d, dy + at + i, p.dim - i, isWide);
    loadNumbers(v, y + at + i, p.dim - i, isWide);
#pragma unroll
    for (int j = 0; j < n; j++) d[j] = v[j] * (d[j] - dot);
    storeNumbers(dx + at + i, p.dim - i, isWide, d);
  }
}

// Calls f(zero of the dtype, threads of a row, grid).
template <class F>
void dispatchRows(const SoftmaxParams& p, F&& f) {
  dispatch(p.dtype, [&](auto t) {
    const int rowThreads = rowThreadsFor(p.dim * bytesOf(p.dtype));
    f(t, rowThreads, Grid{.x = blocksFor(p.rows, threads / rowThreads), .sharedBytes = sizeof(RowShared)});
  });
}

void run(const SoftmaxParams& p, void* const* b, RunContext& context) {
  dispatchRows(p, [&](auto t, int rowThreads, Grid grid) {
    using T = decltype(t);
    launch<forward<T>, threads>(context, grid, p, rowThreads, static_cast<const T*>(b[0]), static_cast<T*>(b[1]),
                                areWide<T>(p.dim, b[0], b[1]));
  });
}
void runBackward(const SoftmaxBackwardParams& p, void* const* b, RunContext& context) {
  dispatchRows(p, [&](auto t, int rowThreads, Grid grid) {
    using T = decltype(t);
    launch<backward<T>, threads>(context, grid, static_cast<const SoftmaxParams&>(p), rowThreads,
                                 static_cast<const T*>(b[0]), static_cast<const T*>(b[1]), static_cast<T*>(b[2]),
                                 areWide<T>(p.dim, b[0], b[1], b[2]));
  });
}

}  // namespace softmax_kernels

HADAL_KERNEL(softmax, SoftmaxParams, softmax_kernels::run)
HADAL_KERNEL(softmaxBackward, SoftmaxBackwardParams, softmax_kernels::runBackward)

}  // namespace cuda
}  // namespace hadal
