// Formulas, shapes, bytes: native/ops/attention.h. What a block does: attention-forward.cuh (tensor cores: bf16, fp16 up to
// heads of 256 numbers), attention-latent.cuh (a cache of wider latents), attention-plain.cuh (the rest). Here the work is
// cut. What is cut depends on sizes and data, never on the card: same bits on every one.
#include "cuda/attention-forward.cuh"
#include "cuda/attention-latent.cuh"
#include "cuda/attention-plain.cuh"
#include "ops/attention.h"

namespace hadal {
namespace cuda {
namespace flash_attention {

// ---- What is seen

struct SightShared {
  int last[threads], first[threads];
};

// A block takes a batch entry, each thread tokens that follow each other.
__device__ void findRuns(int queries, const int32_t* docIds, Span* runs) {
  auto& s = shared<SightShared>();
  docIds += static_cast<int64_t>(blockIdx.x) * queries;
  runs += static_cast<int64_t>(blockIdx.x) * queries;
  const int share = (queries + threads - 1) / threads, thread = static_cast<int>(threadIdx.x);
  const int begin = min(thread * share, queries), end = min(begin + share, queries);
  const auto begins = [&](int t) { return t == 0 || docIds[t] != docIds[t - 1]; };

  // The last and first beginning of a run among the thread's tokens.
  int last = 0, first = queries;
  for (int t = begin; t < end; t++)
    if (begins(t)) {
      last = t;
      if (first == queries) first = t;
    }
  s.last[thread] = last, s.first[thread] = first;
  __syncthreads();
  int from = 0, to = queries;
  for (int i = 0; i < threads; i++) {
    if (i < thread) from = max(from, s.last[i]);
    if (i > thread) to = min(to, s.first[i]);
  }
  for (int t = begin; t < end; t++) {
    if (begins(t)) from = t;
    runs[t].from = docIds[t] < 0 ? t : from;
  }
  for (int t = end - 1; t >= begin; t--) {
    runs[t].to = docIds[t] < 0 ? t : to;
    if (begins(t)) to = t;
  }
}

// Reports a start that does not fit: the kernels then stay inside the cache.
__device__ void checkStart(int queries, int keys, const int32_t* docIds, const int32_t* start, FaultSite faults) {
  auto& s = shared<SightShared>();
  const int64_t batch = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  int used = docIds ? 0 : queries;
  for (int t = thread; docIds && t < queries; t += threads)
    if (docIds[batch * queries + t] >= 0) used = t + 1;
  s.last[thread] = used;
  __syncthreads();
  if (thread > 0) return;
  for (int i = 1; i < threads; i++) used = max(used, s.last[i]);
  if (start[batch] < 0 || start[batch] > keys - used) faults.report(used, start[batch]);
}

void findSights(const Problem& p, int64_t batch, Span* runs, RunContext& context) {
  const Grid grid{.x = blocksFor(batch, 1), .sharedBytes = sizeof(SightShared)};
  if (p.start)
    launch<checkStart, threads>(context, grid, p.queries, p.keys, p.docIds, p.start, faultsOf(context));
  else if (p.docIds && p.queries > 0)
    launch<findRuns, threads>(context, grid, p.queries, p.docIds, runs);
}

// ---- Few rows over long keys, as when a token decodes: keys are cut into splits, whose results are joined.

constexpr int mostSplits = 128;
// Above as many blocks every card is busy without splits.
constexpr int64_t enoughBlocks = 256;

int splitsOf(const AttentionParams& p) {
  const int64_t blocks = p.batch * p.kvHeads * ((p.queries * p.group() + blockRows - 1) / blockRows);
  const int64_t most = std::min<int64_t>(mostSplits, (p.keys + leastSpan - 1) / leastSpan);
  return static_cast<int>(std::max<int64_t>(1, blocks > 0 ? std::min(most, enoughBlocks / blocks) : 1));
}
int64_t partialRows(const AttentionParams& p) {
  const int splits = splitsOf(p);
  return splits > 1 ? p.batch * p.heads * p.queries * splits : 0;
}

struct JoinShared {
  float factors[mostSplits];
};
constexpr int joinThreads = 128;

// A block takes a row. `unit` is the logarithm to base 2 of the base that maxima are exponents of.
template <class T>
__device__ void join(Problem p, Partials partials, float unit, T* o, float* logsumexp) {
  auto& s = shared<JoinShared>();
  const int64_t index = blockIdx.x, first = index * partials.splits;
  const int pair = static_cast<int>(index / p.rows), row = static_cast<int>(index % p.rows);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads, thread = static_cast<int>(threadIdx.x);
  float top = unseen, total = 0;
  for (int i = 0; i < partials.splits; i++) top = fmaxf(top, partials.maxima[first + i]);
  for (int i = thread; i < partials.splits; i += joinThreads)
    s.factors[i] = exp2f((partials.maxima[first + i] - top) * unit);
  __syncthreads();
  for (int i = 0; i < partials.splits; i++) total += partials.sums[first + i] * s.factors[i];
  const Span sight = p.sight(batch, row);
  const bool isBlind = sight.from >= sight.to;
  const float inverse = isBlind ? 0.0f : 1 / total;
  for (int column = thread; column < p.valueDim; column += joinThreads) {
    float sum = 0;
    for (int i = 0; i < partials.splits; i++)
      if (partials.sums[first + i] != 0) sum += partials.o[(first + i) * p.valueDim + column] * s.factors[i];
    o[p.vector(batch, kvHead, row) * p.valueDim + column] = fromFloat<T>(sum * inverse);
  }
  if (logsumexp && thread == 0)
    logsumexp[p.statistic(batch, kvHead, row)] = isBlind ? 0.0f : top * (unit * ln2) + logf(total);
}

// ---- The kernel

int64_t forwardWorkspace(const AttentionParams& p, int) {
  return runBytes(p) + aligned(partialRows(p) * (p.valueDim + 2) * 4);
}

void runForward(const AttentionParams& params, void* const* b, RunContext& context) {
  char* work = static_cast<char*>(context.workspace);
  Span* runs = reinterpret_cast<Span*>(work);
  const Problem p = problemOf(params, b[3], b[4], runs, context);
  findSights(p, params.batch, runs, context);

  Partials partials{.splits = splitsOf(params)};
  const int64_t partialCount = partialRows(params);
  partials.o = reinterpret_cast<float*>(work + runBytes(params));
  partials.maxima = partials.o + partialCount * params.valueDim;
  partials.sums = partials.maxima + partialCount;
  float* const logsumexp = static_cast<float*>(b[6]);
  const int64_t pairs = params.batch * params.kvHeads;

  dispatch(params.dtype, [&](auto t) {
    using T = decltype(t);
    const T *q = static_cast<const T*>(b[0]), *k = static_cast<const T*>(b[1]),
            *v = static_cast<const T*>(b[params.valueInKey ? 1 : 2]);
    T* const o = static_cast<T*>(b[5]);
    const auto blocks = [&](int64_t rows, int64_t slices) {
      return blocksFor(pairs * ((p.rows + rows - 1) / rows) * partials.splits * slices, 1);
    };
    bool byTensorCores = false;
    if constexpr (sizeof(T) == 2) {
      byTensorCores = withHeads(p, [&](auto heads) {
        constexpr int D = heads.keyWidth, E = heads.valueWidth;
        launch<forward<T, D, E>, blockThreads>(
            context, {.x = blocks(blockRows, 1), .sharedBytes = sizeof(ForwardShared<T, D, E>)}, p, q, k, v, o,
            logsumexp, partials);
      });
      if (!byTensorCores && params.valueInKey && latent::fits(p)) {
        byTensorCores = true;
        launch<latent::forward<T>, blockThreads>(
            context, {.x = blocks(latent::rows, 1), .sharedBytes = sizeof(latent::Shared<T>)}, p, q, k, o, logsumexp,
            partials);
      }
    }
    if (!byTensorCores) {
      const auto plainly = [&](auto columns) {
        launch<plain::forward<T, columns.value>, plain::blockThreads, 2>(
            context,
            {.x = blocks(plain::side, (p.valueDim + columns.value - 1) / columns.value),
             .sharedBytes = sizeof(plain::Shared)},
            p, q, k, v, o, logsumexp, partials);
      };
      if constexpr (sizeof(T) == 2)
        plainly(std::integral_constant<int, 128>{});
      else if (p.valueDim > 64)
        plainly(std::integral_constant<int, 128>{});
      else
        plainly(std::integral_constant<int, 64>{});
    }
    if (partials.splits > 1)
      launch<join<T>, joinThreads>(context, {.x = blocksFor(pairs * p.rows, 1), .sharedBytes = sizeof(JoinShared)}, p,
                                   partials, byTensorCores ? 1.0f : log2e, o, logsumexp);
  });
}

}  // namespace flash_attention

HADAL_KERNEL_WITH_FAULTS(attention, AttentionParams, flash_attention::runForward, flash_attention::forwardWorkspace,
                         flash_attention::explainStart)

}  // namespace cuda
}  // namespace hadal
