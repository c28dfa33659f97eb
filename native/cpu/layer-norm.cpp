#include "ops/layer-norm.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// y and sums may be the memory of x or residual: a number is written after it was read for the last time.
template <bool streams, bool adds, class T, class W>
void forwardRows(const LayerNormParams& p, void* const* buffers, int64_t begin, int64_t end) {
  void* const* rest = buffers + (adds ? 2 : 1);
  const W* weight = static_cast<const W*>(rest[0]);
  const W* bias = static_cast<const W*>(rest[1]);
  for (int64_t row = begin; row < end; row++) {
    const int64_t at = row * p.dim;
    const T* x = static_cast<const T*>(buffers[0]) + at;
    T* y = static_cast<T*>(rest[2]) + at;
    Vec total;
    if constexpr (adds) {
      const T* residual = static_cast<const T*>(buffers[1]) + at;
      T* sums = static_cast<T*>(rest[5]) + at;
      total = sumOver<sumChains<T>>(p.dim, [&](int64_t i, auto part) {
        prefetch(x + i), prefetch(residual + i);
        const Vec v = rounded<T>(load(x + i, part) + load(residual + i, part));
        store(sums + i, part, v);
        return v;
      });
      x = sums;
    } else {
      total = sumOver<sumChains<T>>(p.dim, [&](int64_t i, auto part) {
        prefetch(x + i);
        return load(x + i, part);
      });
    }
    const float mean = sum(total) / static_cast<float>(p.dim);
    // In a second pass: E[x²] − E[x]² would cancel.
    const Vec squares = sumOver<sumChains<T>>(p.dim, [&](int64_t i, auto part) {
      const Vec centred = load(x + i, part, mean) - mean;
      return centred * centred;
    });
    const float rstd = 1.0f / std::sqrt(sum(squares) / static_cast<float>(p.dim) + static_cast<float>(p.eps));
    static_cast<float*>(rest[3])[row] = mean;
    static_cast<float*>(rest[4])[row] = rstd;
    forLanes(p.dim, [&](int64_t i, auto part) {
      put<streams>(y + i, part, (load(x + i, part) - mean) * rstd * load(weight + i, part) + load(bias + i, part));
    });
  }
}

template <bool adds>
void forward(const LayerNormParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.weightDtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      const bool isAligned = canStream(buffers[adds ? 4 : 3], p.dim * sizeof(T), buffers[0], buffers[adds ? 1 : 0]);
      streaming((adds ? 4 : 2) * p.matrix(), isAligned, [&](auto streams) {
        parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
          forwardRows<streams.value, adds, T, W>(p, buffers, begin, end);
          if (streams.value) endStream();
        });
      });
    });
  });
}

void plainForward(const LayerNormParams& p, void* const* b, RunContext& context) { forward<false>(p, b, context); }
void addForward(const AddLayerNormParams& p, void* const* b, RunContext& context) { forward<true>(p, b, context); }

// dx = rstd · (w·dy − mean(w·dy) − x̂ · mean(w·dy·x̂)) + dsum, dweight = Σ_rows dy · x̂, dbias = Σ_rows dy, x̂ = (x − mean) · rstd.
// Each thread sums its rows' share of dweight and dbias into its own workspace row; the rows are added in thread order.
template <bool streams, bool adds, class T, class W>
void backwardRows(const LayerNormParams& p, void* const* buffers, float* dweight, float* dbias, int64_t begin,
                  int64_t end) {
  const W* weight = static_cast<const W*>(buffers[2]);
  for (int64_t row = begin; row < end; row++) {
    const T* dy = static_cast<const T*>(buffers[0]) + row * p.dim;
    const T* x = static_cast<const T*>(buffers[1]) + row * p.dim;
    const T* dsum = static_cast<const T*>(buffers[5]) + row * p.dim;
    T* dx = static_cast<T*>(buffers[6]) + row * p.dim;
    const float mean = static_cast<const float*>(buffers[3])[row], rstd = static_cast<const float*>(buffers[4])[row];
    Vec sums = {}, dots = {};
    forLanes(p.dim, [&](int64_t i, auto part) {
      prefetch(dy + i), prefetch(x + i);
      if constexpr (adds) prefetch(dsum + i);
      const Vec g = load(dy + i, part), weighted = g * load(weight + i, part);
      const Vec xhat = (load(x + i, part, mean) - mean) * rstd;
      sums += weighted;
      dots += weighted * xhat;
      store(dweight + i, part, load(dweight + i, part) + g * xhat);
      store(dbias + i, part, load(dbias + i, part) + g);
    });
    const float meanSum = sum(sums) / static_cast<float>(p.dim), meanDot = sum(dots) / static_cast<float>(p.dim);
    forLanes(p.dim, [&](int64_t i, auto part) {
      const Vec xhat = (load(x + i, part) - mean) * rstd;
      const Vec d = rstd * (load(dy + i, part) * load(weight + i, part) - meanSum - xhat * meanDot);
      put<streams>(dx + i, part, adds ? d + load(dsum + i, part) : d);
    });
  }
}

int64_t backwardWorkspace(const LayerNormParams& p, int threads) { return 2 * p.dim * threads * 4; }

template <class W>
void addThreads(const float* partials, int64_t dim, int threads, W* out) {
  for (int64_t i = 0; i < dim; i++) {
    float total = 0;
    for (int thread = 0; thread < threads; thread++) total += partials[2 * thread * dim + i];
    out[i] = fromFloat<W>(total);
  }
}

void backward(const LayerNormBackwardParams& p, void* const* buffers, RunContext& context) {
  float* partials = static_cast<float*>(context.workspace);  // a thread: [dweight_D, dbias_D]
  std::memset(partials, 0, static_cast<size_t>(backwardWorkspace(p, context.threads)));
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.weightDtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      const bool isAligned = canStream(buffers[6], p.dim * sizeof(T), buffers[0], buffers[1], buffers[5]);
      streaming(3 * p.matrix(), isAligned, [&](auto streams) {
        parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int thread) {
          float* mine = partials + 2 * thread * p.dim;
          if (buffers[5])
            backwardRows<streams.value, true, T, W>(p, buffers, mine, mine + p.dim, begin, end);
          else
            backwardRows<streams.value, false, T, W>(p, buffers, mine, mine + p.dim, begin, end);
          if (streams.value) endStream();
        });
      });
      addThreads(partials, p.dim, context.threads, static_cast<W*>(buffers[7]));
      addThreads(partials + p.dim, p.dim, context.threads, static_cast<W*>(buffers[8]));
    });
  });
}

}  // namespace

HADAL_KERNEL(layerNorm, LayerNormParams, plainForward)
HADAL_KERNEL(addLayerNorm, AddLayerNormParams, addForward)
HADAL_KERNEL_WITH_WORKSPACE(layerNormBackward, LayerNormBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
