#include "ops/reduce.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Elements a partial sum covers: long sums stay accurate and do not depend on the number of threads.
constexpr int64_t block = 8192;

int64_t blocksOf(const ReduceParams& p) { return p.inner == 1 ? (p.reduced + block - 1) / block : 1; }

int64_t workspace(const ReduceParams& p, int) { return p.outer * blocksOf(p) * 4; }

HADAL_INLINE Vec combine(Reduction kind, Vec total, Vec x) {
  if (kind == Reduction::maximum) return select(x != x, x, select(total < x, x, total));
  return total + (kind == Reduction::sumOfSquares ? x * x : x);
}
HADAL_INLINE float combine(Reduction kind, float total, float x) {
  if (kind == Reduction::maximum) return x != x || total < x ? x : total;
  return total + (kind == Reduction::sumOfSquares ? x * x : x);
}
HADAL_INLINE float start(Reduction kind) { return kind == Reduction::maximum ? -INFINITY : 0.0f; }

template <class T>
HADAL_INLINE float reduceRun(Reduction kind, const T* x, int64_t n) {
  Vec totals = splat(start(kind));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    prefetch(x + i);
    totals = combine(kind, totals, load(x + i));
  }
  float total = kind == Reduction::maximum ? start(kind) : sum(totals);
  if (kind == Reduction::maximum)
    for (int l = 0; l < lanes; l++) total = combine(kind, total, totals[l]);
  for (; i < n; i++) total = combine(kind, total, toFloat(x[i]));
  return total;
}

// I == 1: a partial result per block, then the blocks of each row in order.
template <class T, class O>
void reduceRows(const ReduceParams& p, const T* x, O* out, float* partials, int threads) {
  const auto kind = static_cast<Reduction>(p.reduction);
  const int64_t blocks = blocksOf(p);
  parallelFor(p.outer * blocks, threads, 1 + 16384 / (p.reduced / (blocks ? blocks : 1) + 1),
              [&](int64_t begin, int64_t end, int) {
                for (int64_t i = begin; i < end; i++) {
                  const int64_t from = i % blocks * block, left = p.reduced - from;
                  partials[i] = reduceRun(kind, x + i / blocks * p.reduced + from, left < block ? left : block);
                }
              });
  const Reduction merge = kind == Reduction::maximum ? kind : Reduction::sum;
  for (int64_t row = 0; row < p.outer; row++) {
    float total = start(kind);
    for (int64_t b = 0; b < blocks; b++) total = combine(merge, total, partials[row * blocks + b]);
    out[row] = fromFloat<O>(total * static_cast<float>(p.scale));
  }
}

// `wide` vectors of columns at once: rows are then read in whole cache lines, and additions do not wait for each other.
template <int wide, class T>
HADAL_INLINE void addRows(Reduction kind, const T* x, int64_t rows, int64_t stride, Vec* totals) {
  for (int v = 0; v < wide; v++) totals[v] = splat(start(kind));
  for (int64_t r = 0; r < rows; r++) {
    const T* row = x + r * stride;
    for (int v = 0; v < wide; v++) {
      __builtin_prefetch(row + 8 * stride + v * lanes);
      totals[v] = combine(kind, totals[v], load(row + v * lanes));
    }
  }
}

// I > 1: vectors run along the inner dim.
template <int wide, class T, class O>
void reduceColumns(const ReduceParams& p, const T* x, O* out, int threads) {
  const auto kind = static_cast<Reduction>(p.reduction);
  const float scale = static_cast<float>(p.scale);
  constexpr int64_t width = wide * lanes;
  const int64_t blocks = (p.inner + width - 1) / width;
  parallelFor(p.outer * blocks, threads, 1 + 16384 / (p.reduced * width + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t o = i / blocks, column = i % blocks * width, left = p.inner - column;
      const T* from = x + o * p.reduced * p.inner + column;
      O* to = out + o * p.inner + column;
      if (left >= width) {
        Vec totals[wide];
        addRows<wide>(kind, from, p.reduced, p.inner, totals);
        for (int v = 0; v < wide; v++) store(to + v * lanes, totals[v] * scale);
        continue;
      }
      forLanes(left, [&](int64_t at, auto part) {
        Vec total = splat(start(kind));
        for (int64_t r = 0; r < p.reduced; r++) total = combine(kind, total, load(from + r * p.inner + at, part));
        store(to + at, part, total * scale);
      });
    }
  });
}

void reduceIntegers(const ReduceParams& p, const int32_t* x, int32_t* out) {
  const bool maximum = static_cast<Reduction>(p.reduction) == Reduction::maximum;
  for (int64_t o = 0; o < p.outer; o++)
    for (int64_t i = 0; i < p.inner; i++) {
      int64_t total = maximum ? INT32_MIN : 0;
      for (int64_t r = 0; r < p.reduced; r++) {
        const int64_t v = x[(o * p.reduced + r) * p.inner + i];
        total = maximum ? (v > total ? v : total) : total + v;
      }
      out[o * p.inner + i] = static_cast<int32_t>(total);
    }
}

void run(const ReduceParams& whole, void* const* buffers, RunContext& context) {
  ReduceParams p = whole;
  if (const auto* extent = static_cast<const int32_t*>(buffers[1])) {
    p.reduced = *extent * p.extentUnit;
    if (p.outer != 1 || *extent < 0 || p.reduced > whole.reduced)
      return context.fail("[reduce] extent %d is out of range", *extent);
  }
  if (p.dtype == DType::int32)
    return reduceIntegers(p, static_cast<const int32_t*>(buffers[0]), static_cast<int32_t*>(buffers[2]));
  dispatch(p.dtype, [&](auto t) {
    dispatch(p.outputType, [&](auto o) {
      const auto* x = static_cast<const decltype(t)*>(buffers[0]);
      auto* out = static_cast<decltype(o)*>(buffers[2]);
      if (p.inner == 1) {
        reduceRows(p, x, out, static_cast<float*>(context.workspace), context.threads);
      } else {
        // A row's stretch as long as registers have sums for, where that leaves each thread a like share: memory gives
        // neighbouring lines faster.
        constexpr int widest = lanes == 16 ? 16 : 8;
        const int64_t vectors = p.outer * (p.inner / lanes);
        if (vectors >= 4 * widest * context.threads)
          reduceColumns<widest>(p, x, out, context.threads);
        else if (vectors >= 8 * context.threads)
          reduceColumns<8>(p, x, out, context.threads);
        else if (vectors >= 2 * context.threads)
          reduceColumns<2>(p, x, out, context.threads);
        else
          reduceColumns<1>(p, x, out, context.threads);
      }
    });
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(reduce, ReduceParams, run, workspace)

}  // namespace HADAL_ISA
}  // namespace hadal
