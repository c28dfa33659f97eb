// Formulas, shapes, bytes: native/ops/attention.h. What a block does: attention-backward.cuh (tensor cores: bf16, fp16 up to
// heads of 256 numbers), attention-backward-plain.cuh (the rest). Here the work is cut, by sizes alone: same bits on every card.
#include "cuda/attention-backward-plain.cuh"
#include "cuda/attention-backward.cuh"
#include "ops/attention.h"

namespace hadal {
namespace cuda {
namespace flash_attention {

int64_t backwardWorkspace(const AttentionBackwardParams& p, int) { return runBytes(p) + aligned(p.statistics()); }

void runBackward(const AttentionBackwardParams& params, void* const* b, RunContext& context) {
  char* const work = static_cast<char*>(context.workspace);
  Span* const runs = reinterpret_cast<Span*>(work);
  const Problem p = problemOf(params, b[6], b[7], runs, context);
  findSights(p, params.batch, runs, context);
  const float* const logsumexp = static_cast<const float*>(b[5]);
  float* const delta = reinterpret_cast<float*>(work + runBytes(params));
  const int64_t pairs = params.batch * params.kvHeads, vectors = params.batch * params.queries * params.heads;

  dispatch(params.dtype, [&](auto t) {
    using T = decltype(t);
    const T *dOut = static_cast<const T*>(b[0]), *q = static_cast<const T*>(b[1]), *k = static_cast<const T*>(b[2]),
            *v = static_cast<const T*>(b[3]);
    T *const dq = static_cast<T*>(b[8]), *const dk = static_cast<T*>(b[9]), *const dv = static_cast<T*>(b[10]);
    launch<sumProducts<T>, threads>(context, {.x = blocksFor(vectors, threads / warpSize)}, p, vectors, dOut,
                                    static_cast<const T*>(b[4]), delta);
    const auto blocks = [&](int64_t count, int64_t size, int64_t slices) {
      return blocksFor(pairs * ((count + size - 1) / size) * slices, 1);
    };
    bool byTensorCores = false;
    if constexpr (sizeof(T) == 2)
      byTensorCores = withHeads(p, [&](auto heads) {
        constexpr int D = heads.keyWidth, E = heads.valueWidth;
        constexpr bool makesBoth = D <= 192;
        const Grid keyGrid{.x = blocks(p.keys, blockRows, 1), .sharedBytes = sizeof(KeysShared<T, D, E>)};
        if (makesBoth ? dk || dv : dk != nullptr)
          launch<backwardKeys<T, D, E, true, makesBoth>, blockThreads>(context, keyGrid, p, dOut, q, k, v, logsumexp,
                                                                       delta, dk, dv);
        if constexpr (!makesBoth) {
          if (dv)
            launch<backwardKeys<T, D, E, false, true>, blockThreads>(context, keyGrid, p, dOut, q, k, v, logsumexp,
                                                                     delta, dk, dv);
        }
        if (dq)
          launch<backwardQueries<T, D, E>, blockThreads>(
              context, {.x = blocks(p.rows, blockRows, 1), .sharedBytes = sizeof(QueriesShared<T, D, E>)}, p, dOut, q,
              k, v, logsumexp, delta, dq);
      });
    if (byTensorCores) return;
    const auto plainly = [&](auto columns) {
      const auto slices = [&](int64_t dim) { return (dim + columns.value - 1) / columns.value; };
      const auto grid = [&](int64_t count, int64_t all) {
        return Grid{.x = blocks(count, plain::side, all), .sharedBytes = sizeof(plain::Shared)};
      };
      if (dk || dv)
        launch<plain::backwardKeys<T, columns.value>, plain::blockThreads, 2>(
            context, grid(p.keys, slices(p.valueDim) + slices(p.keyDim)), p, dOut, q, k, v, logsumexp, delta, dk, dv);
      if (dq)
        launch<plain::backwardQueries<T, columns.value>, plain::blockThreads, 2>(
            context, grid(p.rows, slices(p.keyDim)), p, dOut, q, k, v, logsumexp, delta, dq);
    };
    if constexpr (sizeof(T) == 2)
      plainly(std::integral_constant<int, 128>{});
    else if (p.keyDim > 64 || p.valueDim > 64)
      plainly(std::integral_constant<int, 128>{});
    else
      plainly(std::integral_constant<int, 64>{});
  });
}

}  // namespace flash_attention

HADAL_KERNEL_WITH_FAULTS(attentionBackward, AttentionBackwardParams, flash_attention::runBackward,
                         flash_attention::backwardWorkspace, flash_attention::explainStart)

}  // namespace cuda
}  // namespace hadal
