#include "ops/rms-norm.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

template <class T, class W>
void forwardRows(const RmsNormParams& p, const T* x, const W* weight, T* y, float* rstd, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const T* in = x + row * p.dim;
    T* out = y + row * p.dim;
    Vec squares = {};
    forLanes(p.dim, [&](int64_t i, auto part) {
      const Vec v = load(in + i, part);
      squares += v * v;
    });
    const float r = 1.0f / std::sqrt(sum(squares) / static_cast<float>(p.dim) + static_cast<float>(p.eps));
    rstd[row] = r;
    forLanes(p.dim,
             [&](int64_t i, auto part) { store(out + i, part, load(in + i, part) * r * load(weight + i, part)); });
  }
}

void forward(const RmsNormParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.weightDtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
        forwardRows(p, static_cast<const T*>(buffers[0]), static_cast<const W*>(buffers[1]),
                    static_cast<T*>(buffers[2]), static_cast<float*>(buffers[3]), begin, end);
      });
    });
  });
}

// dx = rstd · (w·dy − x̂ · mean(w·dy·x̂)), dweight = Σ_rows dy · x̂, with x̂ = x · rstd. Each thread sums its rows' share of
// dweight into its own workspace row; the rows are added in thread order.
template <class T, class W>
void backwardRows(const RmsNormParams& p, void* const* buffers, float* partial, int64_t begin, int64_t end) {
  const W* weight = static_cast<const W*>(buffers[2]);
  const float* rstd = static_cast<const float*>(buffers[3]);
  for (int64_t row = begin; row < end; row++) {
    const T* dy = static_cast<const T*>(buffers[0]) + row * p.dim;
    const T* x = static_cast<const T*>(buffers[1]) + row * p.dim;
    T* dx = static_cast<T*>(buffers[4]) + row * p.dim;
    const float r = rstd[row];
    Vec dots = {};
    forLanes(p.dim, [&](int64_t i, auto part) {
      const Vec g = load(dy + i, part), xhat = load(x + i, part) * r;
      dots += g * load(weight + i, part) * xhat;
      store(partial + i, part, load(partial + i, part) + g * xhat);
    });
    const float mean = sum(dots) / static_cast<float>(p.dim);
    forLanes(p.dim, [&](int64_t i, auto part) {
      store(dx + i, part, r * (load(dy + i, part) * load(weight + i, part) - load(x + i, part) * r * mean));
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
      parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int thread) {
        backwardRows<T, W>(p, buffers, partials + thread * p.dim, begin, end);
      });
      W* dweight = static_cast<W*>(buffers[5]);
      for (int64_t i = 0; i < p.dim; i++) {
        float total = 0;
        for (int thread = 0; thread < context.threads; thread++) total += partials[thread * p.dim + i];
        dweight[i] = fromFloat<W>(total);
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(rmsNorm, RmsNormParams, forward)
HADAL_KERNEL_WITH_WORKSPACE(rmsNormBackward, RmsNormBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
