#include "ops/permute.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Workspace: int32 [threads, E], first the pairs of a thread's share an expert has, then the row the next of them goes to.
int64_t orderWorkspace(const ExpertOrderParams& p, int threads) { return p.experts * threads * 4; }

void order(const ExpertOrderParams& p, void* const* buffers, RunContext& context) {
  const int32_t* experts = static_cast<const int32_t*>(buffers[0]);
  int32_t* offsets = static_cast<int32_t*>(buffers[1]);
  int32_t* position = static_cast<int32_t*>(buffers[2]);
  int32_t* source = static_cast<int32_t*>(buffers[3]);
  int32_t* next = static_cast<int32_t*>(context.workspace);
  constexpr int64_t grain = 16384;  // pairs: below that, starting a thread costs more than counting
  std::memset(next, 0, static_cast<size_t>(orderWorkspace(p, context.threads)));

  parallelFor(p.pairs, context.threads, grain, [&](int64_t begin, int64_t end, int thread) {
    int32_t* mine = next + thread * p.experts;
    for (int64_t pair = begin; pair < end; pair++) {
      const int32_t e = experts[pair];
      if (e >= 0 && e < p.experts)
        mine[e]++;
      else if (e != -1)
        context.fail("[permute] expected experts from -1 to %lld, got %d", static_cast<long long>(p.experts - 1), e);
    }
  });
  int32_t row = 0;
  for (int64_t e = 0; e < p.experts; e++) {
    offsets[e] = row;
    for (int thread = 0; thread < context.threads; thread++) {
      const int32_t count = next[thread * p.experts + e];
      next[thread * p.experts + e] = row;
      row += count;
    }
  }
  offsets[p.experts] = row;
  *static_cast<int32_t*>(buffers[4]) = row;
  parallelFor(p.pairs, context.threads, grain, [&](int64_t begin, int64_t end, int thread) {
    int32_t* mine = next + thread * p.experts;
    for (int64_t pair = begin; pair < end; pair++) {
      const int32_t e = experts[pair];
      position[pair] = e >= 0 && e < p.experts ? mine[e]++ : -1;
      if (position[pair] >= 0) source[position[pair]] = static_cast<int32_t>(pair);
    }
  });
  for (int64_t r = row; r < p.pairs; r++) source[r] = 0;
}

// An index that the order did not give is our caller's bug; it must not read beyond the buffers.
HADAL_INLINE bool isInRange(int32_t index, int64_t count, RunContext& context) {
  if (index >= 0 && index < count) return true;
  context.fail("[permute] expected an index from 0 to %lld, got %d; use the results of expertOrder as they are",
               static_cast<long long>(count - 1), index);
  return false;
}

HADAL_INLINE int64_t rowsInUse(const PermuteParams& p, const void* rows) {
  const int64_t given = *static_cast<const int32_t*>(rows);
  return given < p.pairs() ? given : p.pairs();
}

void permuteRows(const PermuteParams& p, void* const* buffers, RunContext& context) {
  const float* weights = static_cast<const float*>(buffers[1]);
  const int32_t* source = static_cast<const int32_t*>(buffers[2]);
  const int64_t rows = rowsInUse(p, buffers[3]);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++) {
        if (!isInRange(source[row], p.pairs(), context)) continue;
        const T* x = static_cast<const T*>(buffers[0]) + source[row] / p.topK * p.dim;
        T* y = static_cast<T*>(buffers[4]) + row * p.dim;
        if (weights) {
          const float weight = weights[source[row]];
          forLanes(p.dim, [&](int64_t i, auto part) { store(y + i, part, load(x + i, part) * weight); });
        } else {
          std::memcpy(static_cast<void*>(y), x, static_cast<size_t>(p.dim) * sizeof(T));
        }
      }
    });
  });
}

HADAL_INLINE bool areInRange(const int32_t* position, const PermuteParams& p, RunContext& context) {
  bool isUsable = true;
  for (int64_t k = 0; k < p.topK; k++) isUsable &= position[k] == -1 || isInRange(position[k], p.pairs(), context);
  return isUsable;
}

// Vectors of a row that are summed at a time: enough that none waits for the sum before it, few enough for 16 registers.
constexpr int rowVecs = 8;

// Some vectors (or a part of one) of Σ_k weights[k] · y[position[k]]; no weights: 1.
template <int vecs, class T, class Part>
HADAL_INLINE void sumRows(const UnpermuteParams& p, const T* y, const int32_t* position, const float* weights, T* x,
                          Part part) {
  Vec total[vecs] = {};
  for (int64_t k = 0; k < p.topK; k++) {
    if (position[k] < 0) continue;
    const T* row = y + position[k] * p.dim;
    const float weight = weights ? weights[k] : 1.0f;
    for (int j = 0; j < vecs; j++) total[j] += load(row + j * lanes, part) * weight;
  }
  for (int j = 0; j < vecs; j++) store(x + j * lanes, part, total[j]);
}

void unpermuteRows(const UnpermuteParams& p, void* const* buffers, RunContext& context) {
  const float* weights = static_cast<const float*>(buffers[1]);
  const int32_t* positions = static_cast<const int32_t*>(buffers[2]);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const T* y = static_cast<const T*>(buffers[0]);
    parallelFor(p.tokens, context.threads, 1 + 16384 / (p.dim * p.topK), [&](int64_t begin, int64_t end, int) {
      for (int64_t token = begin; token < end; token++) {
        const int32_t* position = positions + token * p.topK;
        if (!areInRange(position, p, context)) continue;
        const float* w = weights ? weights + token * p.topK : nullptr;
        T* x = static_cast<T*>(buffers[3]) + token * p.dim;
        int64_t d = 0;
        for (; d + rowVecs * lanes <= p.dim; d += rowVecs * lanes)
          sumRows<rowVecs>(p, y + d, position, w, x + d, WholeVec{});
        forLanes(p.dim - d, [&](int64_t i, auto part) { sumRows<1>(p, y + d + i, position, w, x + d + i, part); });
      }
    });
  });
}

// x · y, and dy = weight · x where dy is wanted; it may be y's memory.
template <bool scales, class T>
HADAL_INLINE float dotRow(const T* x, const T* y, int64_t dim, float weight, T* dy) {
  constexpr int sums = 4;  // an addition takes four cycles
  Vec dots[sums] = {};
  const auto step = [&](int64_t d, Vec& sum, auto part) {
    const Vec v = load(x + d, part);
    sum += v * load(y + d, part);
    if constexpr (scales) store(dy + d, part, v * weight);
  };
  int64_t d = 0;
  for (; d + sums * lanes <= dim; d += sums * lanes)
    for (int j = 0; j < sums; j++) step(d + j * lanes, dots[j], WholeVec{});
  forLanes(dim - d, [&](int64_t i, auto part) { step(d + i, dots[0], part); });
  return sum((dots[0] + dots[1]) + (dots[2] + dots[3]));
}

// In the order of the experts' rows, which are the many: they stream, and the few tokens come from a cache. The dots of pairs
// that have no row are 0.
template <bool scales>
void dotInRows(const PermuteParams& p, const void* xs, const void* ys, const float* weights, const int32_t* source,
               const void* rowCount, void* dys, float* dots, RunContext& context) {
  const int64_t rows = rowsInUse(p, rowCount);
  if (rows < p.pairs()) std::memset(dots, 0, static_cast<size_t>(p.pairs()) * 4);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++) {
        const int64_t pair = source[row];
        if (!isInRange(source[row], p.pairs(), context)) continue;
        const T* x = static_cast<const T*>(xs) + pair / p.topK * p.dim;
        const T* y = static_cast<const T*>(ys) + row * p.dim;
        T* dy = static_cast<T*>(dys) + row * p.dim;
        dots[pair] = dotRow<scales>(x, y, p.dim, scales ? weights[pair] : 1, dy);
      }
    });
  });
}

void dotRows(const PermuteDotParams& p, void* const* buffers, RunContext& context) {
  dotInRows<false>(p, buffers[0], buffers[1], nullptr, static_cast<const int32_t*>(buffers[2]), buffers[3], nullptr,
                   static_cast<float*>(buffers[4]), context);
}

void unpermuteBackwardRows(const UnpermuteBackwardParams& p, void* const* buffers, RunContext& context) {
  dotInRows<true>(p, buffers[0], buffers[1], static_cast<const float*>(buffers[2]),
                  static_cast<const int32_t*>(buffers[3]), buffers[4], buffers[5], static_cast<float*>(buffers[6]),
                  context);
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(expertOrder, ExpertOrderParams, order, orderWorkspace)
HADAL_KERNEL(permute, PermuteParams, permuteRows)
HADAL_KERNEL(unpermute, UnpermuteParams, unpermuteRows)
HADAL_KERNEL(permuteDot, PermuteDotParams, dotRows)
HADAL_KERNEL(unpermuteBackward, UnpermuteBackwardParams, unpermuteBackwardRows)

}  // namespace HADAL_ISA
}  // namespace hadal
