#include "ops/rms-norm.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// y and sums may be the memory of x or residual: a number is written after it was read for the last time.
template <bool streams, bool adds, class T, class W>
void forwardRows(const RmsNormParams& p, const T* x, const T* residual, const W* weight, T* y, float* rstd, T* sums,
                 int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const int64_t at = row * p.dim;
    const auto input = [&](int64_t i, auto part) {
      const Vec v = load(x + at + i, part);
      if constexpr (adds) return rounded<T>(v + load(residual + at + i, part));
      return v;
    };
    const Vec squares = sumOver<sumChains<T>>(p.dim, [&](int64_t i, auto part) {
      prefetch(x + at + i);
      if constexpr (adds) prefetch(residual + at + i);
      const Vec v = input(i, part);
      return v * v;
    });
    const float r = 1.0f / std::sqrt(sum(squares) / static_cast<float>(p.dim) + static_cast<float>(p.eps));
    rstd[row] = r;
    forLanes(p.dim, [&](int64_t i, auto part) {  // the row is in L1 now: adding again costs less than a buffer
      const Vec v = input(i, part);
      if constexpr (adds) put<streams>(sums + at + i, part, v);
      put<streams>(y + at + i, part, v * r * load(weight + i, part));
    });
  }
}

template <bool adds>
void forward(const RmsNormParams& p, const void* x, const void* residual, const void* weight, void* y, void* rstd,
             void* sums, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.weightDtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      const bool isAligned =
          canStream(y, p.dim * sizeof(T), x, residual) && (!adds || canStream(sums, p.dim * sizeof(T), x, residual));
      streaming((adds ? 4 : 2) * p.matrix(), isAligned, [&](auto streams) {
        parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
          forwardRows<streams.value, adds>(p, static_cast<const T*>(x), static_cast<const T*>(residual),
                                           static_cast<const W*>(weight), static_cast<T*>(y), static_cast<float*>(rstd),
                                           static_cast<T*>(sums), begin, end);
          if (streams.value) endStream();
        });
      });
    });
  });
}

void plainForward(const RmsNormParams& p, void* const* b, RunContext& context) {
  forward<false>(p, b[0], nullptr, b[1], b[2], b[3], nullptr, context);
}
void addForward(const AddRmsNormParams& p, void* const* b, RunContext& context) {
  forward<true>(p, b[0], b[1], b[2], b[3], b[4], b[5], context);
}

// dx = rstd · (w·dy − x̂ · mean(w·dy·x̂)) + dsum, dweight = Σ_rows dy · x̂, with x̂ = x · rstd. Each thread sums its rows'
// share of dweight into its own workspace row; the rows are added in thread order.
template <bool streams, bool adds, class T, class W>
void backwardRows(const RmsNormParams& p, void* const* buffers, float* partial, int64_t begin, int64_t end) {
  const W* weight = static_cast<const W*>(buffers[2]);
  const float* rstd = static_cast<const float*>(buffers[3]);
  for (int64_t row = begin; row < end; row++) {
    const T* dy = static_cast<const T*>(buffers[0]) + row * p.dim;
    const T* x = static_cast<const T*>(buffers[1]) + row * p.dim;
    const T* dsum = static_cast<const T*>(buffers[4]) + row * p.dim;
    T* dx = static_cast<T*>(buffers[5]) + row * p.dim;
    const float r = rstd[row];
    Vec dots = {};
    forLanes(p.dim, [&](int64_t i, auto part) {
      prefetch(dy + i), prefetch(x + i);
      if constexpr (adds) prefetch(dsum + i);
      const Vec g = load(dy + i, part), xhat = load(x + i, part) * r;
      dots += g * load(weight + i, part) * xhat;
      store(partial + i, part, load(partial + i, part) + g * xhat);
    });
    const float mean = sum(dots) / static_cast<float>(p.dim);
    forLanes(p.dim, [&](int64_t i, auto part) {
      const Vec d = r * (load(dy + i, part) * load(weight + i, part) - load(x + i, part) * r * mean);
      put<streams>(dx + i, part, adds ? d + load(dsum + i, part) : d);
    });
  }
}

int64_t backwardWorkspace(const RmsNormParams& p, int threads) { return p.dim * threads * 4; }

void backward(const RmsNormBackwardParams& p, void* const* buffers, RunContext& context) {
  float* partials = static_cast<float*>(context.workspace);
  std::memset(partials, 0, static_cast<size_t>(p.dim) * context.threads * 4);
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.weightDtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      streaming(3 * p.matrix(), canStream(buffers[5], p.dim * sizeof(T), buffers[0], buffers[1], buffers[4]),
                [&](auto streams) {
                  parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int thread) {
                    float* partial = partials + thread * p.dim;
                    if (buffers[4])
                      backwardRows<streams.value, true, T, W>(p, buffers, partial, begin, end);
                    else
                      backwardRows<streams.value, false, T, W>(p, buffers, partial, begin, end);
                    if (streams.value) endStream();
                  });
                });
      W* dweight = static_cast<W*>(buffers[6]);
      for (int64_t i = 0; i < p.dim; i++) {
        float total = 0;
        for (int thread = 0; thread < context.threads; thread++) total += partials[thread * p.dim + i];
        dweight[i] = fromFloat<W>(total);
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(rmsNorm, RmsNormParams, plainForward)
HADAL_KERNEL(addRmsNorm, AddRmsNormParams, addForward)
HADAL_KERNEL_WITH_WORKSPACE(rmsNormBackward, RmsNormBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
