// Attention's forward by tensor cores (bf16, fp16): FlashAttention-2, algorithm 1.
//
// A block takes 64 rows and goes over their keys in tiles, two of which are in shared memory: one is copied while the other
// is multiplied. A warp has 16 rows to itself: scores, statistics, weights and outputs stay in its registers.
#pragma once
#include "cuda/attention-tiles.cuh"

namespace hadal {
namespace cuda {
namespace flash_attention {

// Softmax over a part of the keys, for few rows over long keys: [batch, kv head][row][split], outputs not yet divided by
// the sums. Maxima are in units of ln(base) of the kernel that made them.
struct Partials {
  int splits = 1;
  float *o = nullptr, *maxima = nullptr, *sums = nullptr;
};
// What a split takes at least: 64 KiB of a head of 64 numbers, far more than its partial results.
constexpr int leastSpan = 256;

// Keys that a split of [first, end) takes.
__device__ __forceinline__ Span spanOf(int first, int end, int split, int splits) {
  if (splits == 1) return {first, end};
  const int share = (end - first + splits - 1) / splits;
  const int size = max(leastSpan, (share + 63) / 64 * 64);
  const int64_t from = first + static_cast<int64_t>(split) * size;
  return {static_cast<int>(min(from, static_cast<int64_t>(end))),
          static_cast<int>(min(from + size, static_cast<int64_t>(end)))};
}

// Over the four lanes that share a row of sums.
__device__ __forceinline__ float quadSum(float x) {
  x += __shfl_xor_sync(wholeWarp, x, 1);
  return x + __shfl_xor_sync(wholeWarp, x, 2);
}
__device__ __forceinline__ float quadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(wholeWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(wholeWarp, x, 2));
}

// Rows firstRow + lane / 4 and the eighth after it, of one split.
struct WarpRows {
  int pair, firstRow, split;
  bool hasKeys;
};
// Writes columns firstColumn … of a warp's 16 rows, and their statistics with column 0.
template <class T, int n>
__device__ __forceinline__ void finish(const Problem& p, WarpRows rows, const Span (&sight)[2],
                                       const Partials& partials, const float (&top)[2], const float (&total)[2],
                                       const Sums<n>& out, int firstColumn, T* o, float* logsumexp) {
  const int batch = rows.pair / p.kvHeads, kvHead = rows.pair % p.kvHeads, firstOwn = laneId() % 4 * 2 + firstColumn;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = rows.firstRow + laneId() / 4 + i * 8;
    if (row >= p.rows) continue;
    if (partials.splits > 1) {
      const int64_t at = (static_cast<int64_t>(rows.pair) * p.rows + row) * partials.splits + rows.split;
      if (firstOwn == 0) partials.maxima[at] = top[i], partials.sums[at] = total[i];
      if (!rows.hasKeys) continue;
#pragma unroll
      for (int c = 0; c < n; c++)
        storePair(partials.o + at * p.valueDim, c * 8 + firstOwn, p.valueDim, out[c][i * 2], out[c][i * 2 + 1]);
    } else {
      const bool isBlind = sight[i].from >= sight[i].to;
      const float inverse = isBlind ? 0.0f : 1 / total[i];
      T* const to = o + p.vector(batch, kvHead, row) * p.valueDim;
#pragma unroll
      for (int c = 0; c < n; c++)
        storePair(to, c * 8 + firstOwn, p.valueDim, out[c][i * 2] * inverse, out[c][i * 2 + 1] * inverse);
      if (logsumexp && firstOwn == 0)
        logsumexp[p.statistic(batch, kvHead, row)] = isBlind ? 0.0f : (top[i] + log2f(total[i])) * ln2;
    }
  }
}

template <int D>
struct ForwardTile {
  // 64 keys of 192 + 128 numbers, twice, are 80 KiB; of 256 + 256 they would be 128, above the 99 that every card has.
  static constexpr int keys = D <= 192 ? 64 : 32;
  // Rows of q stay in registers where these suffice: 48 for 192 numbers.
  static constexpr bool holdsQueries = D <= 192;
};

template <class T, int D, int E>
struct ForwardShared {
  static constexpr int keys = ForwardTile<D>::keys;
  T k[2 * keys * D], v[2 * keys * E];
  // Queries that go to registers lie where the second tile of keys will.
  T q[ForwardTile<D>::holdsQueries ? 8 : blockRows * D];

  __device__ T* queries() { return ForwardTile<D>::holdsQueries ? k + keys * D : q; }
};

template <class T, int D, int E>
__device__ void forward(Problem p, const T* q, const T* k, const T* v, T* o, float* logsumexp, Partials partials) {
  constexpr int tileKeys = ForwardTile<D>::keys;
  constexpr bool holdsQueries = ForwardTile<D>::holdsQueries;
  auto& s = shared<ForwardShared<T, D, E>>();
  const int lane = laneId(), tiles = (p.rows + blockRows - 1) / blockRows;
  unsigned block = blockIdx.x;
  const int split = static_cast<int>(block % partials.splits);
  block /= partials.splits;
  // Causal tiles with many keys first, so that short ones fill the end.
  const int firstRow = (tiles - 1 - static_cast<int>(block % tiles)) * blockRows,
            pair = static_cast<int>(block / tiles);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;

  const Bounds all = boundsOf(p, batch, firstRow, min(firstRow + blockRows, p.rows) - 1);
  const Span span = spanOf(all.first, all.end, split, partials.splits);

  // Rows of this thread: lane / 4 of the warp's 16, and the eighth after it.
  const int warpRow = firstRow + warpId() * 16, row[2] = {warpRow + lane / 4, warpRow + lane / 4 + 8};
  Bounds seen{0, 0, 0, 0};
  if (warpRow < p.rows) seen = boundsOf(p, batch, warpRow, min(warpRow + 16, p.rows) - 1);
  Span sight[2];
#pragma unroll
  for (int i = 0; i < 2; i++) sight[i] = row[i] < p.rows ? p.sight(batch, row[i]) : Span{0, 0};

  const bool keysAreVectors = p.keyDim % 8 == 0, valuesAreVectors = p.valueStride % 8 == 0;
  const auto loadKeys = [&](int key, int stage) {
    copyTile<D, tileKeys, blockThreads>(
        s.k + stage * tileKeys * D, p.keyDim, keysAreVectors, k, [&](int i) -> const T* {
          return key + i < span.to ? k + p.keyVector(batch, kvHead, key + i) * p.keyDim : nullptr;
        });
    copyTile<E, tileKeys, blockThreads>(
        s.v + stage * tileKeys * E, p.valueDim, valuesAreVectors, v, [&](int i) -> const T* {
          return key + i < span.to ? v + p.keyVector(batch, kvHead, key + i) * p.valueStride : nullptr;
        });
    commitCopies();
  };
  copyTile<D, blockRows, blockThreads>(s.queries(), p.keyDim, keysAreVectors, q, [&](int i) -> const T* {
    return firstRow + i < p.rows ? q + p.vector(batch, kvHead, firstRow + i) * p.keyDim : nullptr;
  });
  loadKeys(span.from, 0);
  auto queryPlaces = Places<D>::ofRows();
  queryPlaces.move(warpId() * 16 * D);
  uint32_t held[holdsQueries ? D / 16 : 1][4];
  if constexpr (holdsQueries) {
    awaitCopies<0>();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < D / 16; step++) loadMatrices4(held[step], queryPlaces.in(s.queries(), 0, step));
  }
  const auto left = [&](uint32_t(&a)[4], int step) {
    if constexpr (holdsQueries) {
#pragma unroll
      for (int i = 0; i < 4; i++) a[i] = held[step][i];
    } else {
      loadMatrices4(a, queryPlaces.in(s.queries(), 0, step));
    }
  };

  const float factor = p.scale * log2e;
  Sums<E / 8> out = {};
  float top[2] = {unseen, unseen}, total[2] = {0, 0};
  auto keyPlaces = Places<D>::ofColumns();
  auto valuePlaces = Places<E>::ofRows();
  int stage = 0;
  const auto turn = [&] {
    const int by = stage ? -tileKeys : tileKeys;
    keyPlaces.move(by * D);
    valuePlaces.move(by * E);
    stage ^= 1;
  };
  for (int key = span.from; key < span.to; key += tileKeys, turn()) {
    awaitCopies<0>();
    __syncthreads();  // this tile is there, and nobody uses the other one any more
    if (key + tileKeys < span.to) loadKeys(key + tileKeys, stage ^ 1);
    if (!seen.isSeen(key, tileKeys)) continue;

    Sums<tileKeys / 8> scores = {};
    addScores(scores, left, s.k, keyPlaces);
    const bool isMasked = seen.isMasked(key, tileKeys);
    float tileTop[2] = {unseen, unseen};
#pragma unroll
    for (int i = 0; i < tileKeys / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        scores[i][j] *= factor;
        if (isMasked) {
          const int at = key + i * 8 + lane % 4 * 2 + j % 2;
          if (at < sight[j / 2].from || at >= sight[j / 2].to) scores[i][j] = lowest;
        }
        tileTop[j / 2] = fmaxf(tileTop[j / 2], scores[i][j]);
      }
    float decay[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float x = fmaxf(quadMax(tileTop[i]), top[i]);
      decay[i] = exp2Approximate(top[i] - x);
      top[i] = x;
      total[i] *= decay[i];
    }
#pragma unroll
    for (int i = 0; i < tileKeys / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        scores[i][j] = exp2Approximate(scores[i][j] - top[j / 2]);
        total[j / 2] += scores[i][j];
      }
#pragma unroll
    for (int i = 0; i < E / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) out[i][j] *= decay[j / 2];
    addWeighted(out, scores, s.v, valuePlaces);
  }
  awaitCopies<0>();  // where there were no keys

#pragma unroll
  for (int i = 0; i < 2; i++) total[i] = quadSum(total[i]);
  finish(p, {pair, warpRow, split, span.from < span.to}, sight, partials, top, total, out, 0, o, logsumexp);
}

}  // namespace flash_attention
}  // namespace cuda
}  // namespace hadal
