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

void permuteRows(const PermuteParams& p, void* const* buffers, RunContext& context) {
  const float* weights = static_cast<const float*>(buffers[1]);
  const int32_t* source = static_cast<const int32_t*>(buffers[2]);
  const int64_t given = *static_cast<const int32_t*>(buffers[3]), rows = given < p.pairs() ? given : p.pairs();
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

void unpermuteRows(const UnpermuteParams& p, void* const* buffers, RunContext& context) {
  const float* weights = static_cast<const float*>(buffers[1]);
  const int32_t* positions = static_cast<const int32_t*>(buffers[2]);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const T* y = static_cast<const T*>(buffers[0]);
    parallelFor(p.tokens, context.threads, 1 + 16384 / (p.dim * p.topK), [&](int64_t begin, int64_t end, int) {
      for (int64_t token = begin; token < end; token++) {
        const int32_t* position = positions + token * p.topK;
        bool isUsable = true;
        for (int64_t k = 0; k < p.topK; k++)
          isUsable &= position[k] == -1 || isInRange(position[k], p.pairs(), context);
        if (!isUsable) continue;
        T* x = static_cast<T*>(buffers[3]) + token * p.dim;
        forLanes(p.dim, [&](int64_t i, auto part) {
          Vec total = {};
          for (int64_t k = 0; k < p.topK; k++)
            if (position[k] >= 0)
              total += load(y + position[k] * p.dim + i, part) * (weights ? weights[token * p.topK + k] : 1.0f);
          store(x + i, part, total);
        });
      }
    });
  });
}

void dotRows(const PermuteDotParams& p, void* const* buffers, RunContext& context) {
  const int32_t* positions = static_cast<const int32_t*>(buffers[2]);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(p.pairs(), context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t pair = begin; pair < end; pair++) {
        const T* x = static_cast<const T*>(buffers[0]) + pair / p.topK * p.dim;
        Vec dots = {};
        if (positions[pair] != -1 && isInRange(positions[pair], p.pairs(), context)) {
          const T* y = static_cast<const T*>(buffers[1]) + positions[pair] * p.dim;
          forLanes(p.dim, [&](int64_t i, auto part) { dots += load(x + i, part) * load(y + i, part); });
        }
        static_cast<float*>(buffers[3])[pair] = sum(dots);
      }
    });
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(expertOrder, ExpertOrderParams, order, orderWorkspace)
HADAL_KERNEL(permute, PermuteParams, permuteRows)
HADAL_KERNEL(unpermute, UnpermuteParams, unpermuteRows)
HADAL_KERNEL(permuteDot, PermuteDotParams, dotRows)

}  // namespace HADAL_ISA
}  // namespace hadal
