#include "ops/rms-norm.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

template <class T, class W>
void forwardRows(const RmsNormParams& p, const T* x, const W* weight, T* y, float* rstd, int64_t begin, int64_t end) {
  const int64_t whole = p.dim / lanes * lanes, rest = p.dim - whole;
  for (int64_t row = begin; row < end; row++) {
    const T* in = x + row * p.dim;
    T* out = y + row * p.dim;
    Vec squares = {};
    for (int64_t i = 0; i < whole; i += lanes) {
      const Vec v = load(in + i);
      squares += v * v;
    }
    if (rest) {
      const Vec v = loadPart(in + whole, rest);
      squares += v * v;
    }
    const float r = 1.0f / std::sqrt(sum(squares) / static_cast<float>(p.dim) + static_cast<float>(p.eps));
    rstd[row] = r;
    for (int64_t i = 0; i < whole; i += lanes) store(out + i, load(in + i) * r * load(weight + i));
    if (rest) storePart(out + whole, rest, loadPart(in + whole, rest) * r * loadPart(weight + whole, rest));
  }
}

void forward(const RmsNormParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.weightDtype, [&](auto w) {
      using T = decltype(t);
      using W = decltype(w);
      parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
        forwardRows(p, static_cast<const T*>(buffers[0]), static_cast<const W*>(buffers[1]), static_cast<T*>(buffers[2]),
                    static_cast<float*>(buffers[3]), begin, end);
      });
    });
  });
}

// dx = rstd · (w·dy − x̂ · mean(w·dy·x̂)), dweight = Σ_rows dy · x̂, with x̂ = x · rstd. Each thread sums its rows' share of
// dweight into its own workspace row; the rows are added in thread order.
template <class T, class W>
void backwardRows(const RmsNormParams& p, void* const* buffers, float* partial, int64_t begin, int64_t end) {
  const T* dy = static_cast<const T*>(buffers[0]);
  const T* x = static_cast<const T*>(buffers[1]);
  const W* weight = static_cast<const W*>(buffers[2]);
  const float* rstd = static_cast<const float*>(buffers[3]);
  T* dx = static_cast<T*>(buffers[4]);
  const int64_t whole = p.dim / lanes * lanes, rest = p.dim - whole;
  for (int64_t row = begin; row < end; row++) {
    const int64_t at = row * p.dim;
    const float r = rstd[row];
    Vec dots = {};
    for (int64_t i = 0; i < whole; i += lanes) {
      const Vec g = load(dy + at + i), xhat = load(x + at + i) * r;
      dots += g * load(weight + i) * xhat;
      store(partial + i, load(partial + i) + g * xhat);
    }
    if (rest) {
      const Vec g = loadPart(dy + at + whole, rest), xhat = loadPart(x + at + whole, rest) * r;
      dots += g * loadPart(weight + whole, rest) * xhat;
      storePart(partial + whole, rest, loadPart(partial + whole, rest) + g * xhat);
    }
    const float mean = sum(dots) / static_cast<float>(p.dim);
    for (int64_t i = 0; i < whole; i += lanes)
      store(dx + at + i, r * (load(dy + at + i) * load(weight + i) - load(x + at + i) * r * mean));
    if (rest)
      storePart(dx + at + whole, rest,
                r * (loadPart(dy + at + whole, rest) * loadPart(weight + whole, rest) -
                     loadPart(x + at + whole, rest) * r * mean));
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
