// Attention's backward by tensor cores (bf16, fp16): FlashAttention-2, algorithm 2, as two kernels, so that every sum has one
// owner and an order: one has a tile of keys and goes over the rows that see them (dk, dv), one has a tile of rows and goes
// over their keys (dq). Scores are computed twice: seven products where five would do with sums by atomics.
//
// As in the forward, a warp owns 16 keys or rows: scores become weights and slopes in its registers, which are the left
// operands of the next product as they are.
#pragma once
#include "cuda/attention-tiles.cuh"

namespace hadal {
namespace cuda {
namespace flash_attention {

// delta[row] = Σ do·o. A warp takes a vector of o.
template <class T>
__device__ void sumProducts(Problem p, int64_t vectors, const T* dOut, const T* o, float* delta) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * (threads / warpSize) + warpId();
  if (vector >= vectors) return;
  const int64_t first = vector * p.valueDim;
  float sum = 0;
  if (p.valueDim % 2 == 0) {
    for (int i = laneId() * 2; i < p.valueDim; i += warpSize * 2) {
      const auto a = *reinterpret_cast<const Pack<T, 2>*>(dOut + first + i);
      const auto b = *reinterpret_cast<const Pack<T, 2>*>(o + first + i);
      sum += toFloat(a.at[0]) * toFloat(b.at[0]) + toFloat(a.at[1]) * toFloat(b.at[1]);
    }
  } else {
    for (int i = laneId(); i < p.valueDim; i += warpSize) sum += toFloat(dOut[first + i]) * toFloat(o[first + i]);
  }
  sum = warpSum(sum);
  const int64_t token = vector / p.heads, head = vector % p.heads;
  if (laneId() == 0) delta[(token / p.queries * p.heads + head) * p.queries + token % p.queries] = sum;
}

// Two tiles beside the owner's fit 99 KiB, and a warp's scores and their gradients the registers that its sums leave: for 192
// and 128 numbers 160 of them are sums of dk and dv, 96 of dq.
template <int D>
struct BackwardTile {
  static constexpr int rows = D <= 64 ? 64 : D <= 128 ? 32 : 16;  // that the owner of keys goes over
  static constexpr int keys = D <= 64 ? 64 : D <= 192 ? 32 : 16;  // that the owner of rows goes over
};

// ---- dk and dv

template <class T, int D, int E>
struct KeysShared {
  static constexpr int rows = BackwardTile<D>::rows;
  T k[blockRows * D], v[blockRows * E], q[2 * rows * D], dOut[2 * rows * E];
  float logsumexp[2 * rows], delta[2 * rows];
  Span sight[2 * rows];
};

// A block takes 64 keys. Which of the two gradients it makes is known when this is compiled: both of 256 numbers would fill
// more registers than there are.
template <class T, int D, int E, bool makesKeys, bool makesValues>
__device__ void backwardKeys(Problem p, const T* dOut, const T* q, const T* k, const T* v, const float* logsumexp,
                             const float* delta, T* dk, T* dv) {
  constexpr int tileRows = BackwardTile<D>::rows;
  auto& s = shared<KeysShared<T, D, E>>();
  const int lane = laneId(), tiles = (p.keys + blockRows - 1) / blockRows;
  const int firstKey = static_cast<int>(blockIdx.x % tiles) * blockRows, pair = static_cast<int>(blockIdx.x / tiles);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
  const Rows rows = rowsOf(p, batch, firstKey, min(firstKey + blockRows, p.keys));

  const bool keysAreVectors = p.keyDim % 8 == 0, valuesAreVectors = p.valueDim % 8 == 0;
  const auto loadRows = [&](int row, int stage) {
    copyTile<D, tileRows, blockThreads>(
        s.q + stage * tileRows * D, p.keyDim, keysAreVectors, q, [&](int i) -> const T* {
          return row + i < rows.end ? q + p.vector(batch, kvHead, row + i) * p.keyDim : nullptr;
        });
    copyTile<E, tileRows, blockThreads>(
        s.dOut + stage * tileRows * E, p.valueDim, valuesAreVectors, dOut, [&](int i) -> const T* {
          return row + i < rows.end ? dOut + p.vector(batch, kvHead, row + i) * p.valueDim : nullptr;
        });
    if (threadIdx.x < tileRows) {
      const int i = static_cast<int>(threadIdx.x), at = stage * tileRows + i;
      const bool isRow = row + i < rows.end;
      const int64_t statistic = isRow ? p.statistic(batch, kvHead, row + i) : 0;
      copyAsync4(s.logsumexp + at, logsumexp + statistic, isRow);
      copyAsync4(s.delta + at, delta + statistic, isRow);
      // A row that is not there is all zeros: it may see what the last one sees.
      s.sight[at] = p.sight(batch, min(row + i, rows.end - 1));
    }
    commitCopies();
  };
  const int usedKeys = p.usedKeys(batch);
  const auto loadOwn = [&](auto width, T* tile, const T* from, int dim, bool areVectors) {
    copyTile<width.value, blockRows, blockThreads>(tile, dim, areVectors, from, [&](int i) -> const T* {
      return firstKey + i < usedKeys ? from + p.keyVector(batch, kvHead, firstKey + i) * dim : nullptr;
    });
  };
  Sums<makesKeys ? D / 8 : 1> keySums = {};
  Sums<makesValues ? E / 8 : 1> valueSums = {};
  const int warpKey = firstKey + warpId() * 16;
  if (rows.first < rows.end) {
    loadOwn(std::integral_constant<int, D>{}, s.k, k, p.keyDim, keysAreVectors);
    if constexpr (makesKeys) loadOwn(std::integral_constant<int, E>{}, s.v, v, p.valueDim, valuesAreVectors);
    loadRows(rows.first, 0);
  }

  auto queryColumns = Places<D>::ofColumns(), queryRows = Places<D>::ofRows();
  auto dOutColumns = Places<E>::ofColumns(), dOutRows = Places<E>::ofRows();
  int stage = 0;
  const auto turn = [&] {
    const int by = stage ? -tileRows : tileRows;
    queryColumns.move(by * D), queryRows.move(by * D);
    dOutColumns.move(by * E), dOutRows.move(by * E);
    stage ^= 1;
  };
  const float factor = p.scale * log2e;
  for (int row = rows.first; row < rows.end; row += tileRows, turn()) {
    awaitCopies<0>();
    __syncthreads();  // this tile is there, and nobody uses the other one any more
    if (row + tileRows < rows.end) loadRows(row + tileRows, stage ^ 1);
    const Bounds seen = boundsOf(p, s.sight[stage * tileRows], s.sight[stage * tileRows + tileRows - 1]);
    if (!seen.isSeen(warpKey, 16)) continue;

    // From the places of a tile's rows to those of the warp's keys: fewer registers than places of their own.
    const int own = warpId() * 16 - stage * tileRows;
    Sums<tileRows / 8> weights = {};
    addScores(
        weights, [&](uint32_t(&a)[4], int step) { loadMatrices4(a, queryRows.in(s.k + own * D, 0, step)); }, s.q,
        queryColumns);
    const bool isMasked = seen.isMasked(warpKey, 16);
#pragma unroll
    for (int i = 0; i < tileRows / 8; i++)
#pragma unroll
      for (int column = 0; column < 2; column++) {
        const int at = stage * tileRows + i * 8 + lane % 4 * 2 + column;
        const float log = s.logsumexp[at] * log2e;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float& weight = weights[i][half * 2 + column];
          weight = exp2Approximate(weight * factor - log);
          if (isMasked) {
            const int key = warpKey + lane / 4 + half * 8;
            const Span sight = s.sight[at];
            if (key < sight.from || key >= sight.to) weight = 0;
          }
        }
      }
    if constexpr (makesValues) addWeighted(valueSums, weights, s.dOut, dOutRows);
    if constexpr (makesKeys) {
      Sums<tileRows / 8> slopes = {};
      addScores(
          slopes, [&](uint32_t(&a)[4], int step) { loadMatrices4(a, dOutRows.in(s.v + own * E, 0, step)); }, s.dOut,
          dOutColumns);
#pragma unroll
      for (int i = 0; i < tileRows / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int at = stage * tileRows + i * 8 + lane % 4 * 2 + j % 2;
          slopes[i][j] = weights[i][j] * (slopes[i][j] - s.delta[at]);
        }
      addWeighted(keySums, slopes, s.q, queryRows);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int key = warpKey + lane / 4 + half * 8;
    if (key >= p.keys) continue;
    const int64_t vector = p.keyVector(batch, kvHead, key);
    if constexpr (makesKeys) {
      for (int n = 0; dk && n < D / 8; n++)
        storePair(dk + vector * p.keyDim, n * 8 + lane % 4 * 2, p.keyDim, keySums[n][half * 2] * p.scale,
                  keySums[n][half * 2 + 1] * p.scale);
    }
    if constexpr (makesValues) {
      for (int n = 0; dv && n < E / 8; n++)
        storePair(dv + vector * p.valueDim, n * 8 + lane % 4 * 2, p.valueDim, valueSums[n][half * 2],
                  valueSums[n][half * 2 + 1]);
    }
  }
}

// ---- dq

template <class T, int D, int E>
struct QueriesShared {
  static constexpr int keys = BackwardTile<D>::keys;
  T q[blockRows * D], dOut[blockRows * E], k[2 * keys * D], v[2 * keys * E];
};

// A block takes 64 rows.
template <class T, int D, int E>
__device__ void backwardQueries(Problem p, const T* dOut, const T* q, const T* k, const T* v, const float* logsumexp,
                                const float* delta, T* dq) {
  constexpr int tileKeys = BackwardTile<D>::keys;
  auto& s = shared<QueriesShared<T, D, E>>();
  const int lane = laneId(), tiles = (p.rows + blockRows - 1) / blockRows;
  // Causal tiles with many keys first, so that short ones fill the end.
  const int firstRow = (tiles - 1 - static_cast<int>(blockIdx.x % tiles)) * blockRows;
  const int pair = static_cast<int>(blockIdx.x / tiles), batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
  const Bounds all = boundsOf(p, batch, firstRow, min(firstRow + blockRows, p.rows) - 1);

  const int warpRow = firstRow + warpId() * 16, row[2] = {warpRow + lane / 4, warpRow + lane / 4 + 8};
  Bounds seen{0, 0, 0, 0};
  if (warpRow < p.rows) seen = boundsOf(p, batch, warpRow, min(warpRow + 16, p.rows) - 1);
  Span sight[2];
  float log[2], mean[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const bool isRow = row[i] < p.rows;
    const int64_t statistic = isRow ? p.statistic(batch, kvHead, row[i]) : 0;
    sight[i] = isRow ? p.sight(batch, row[i]) : Span{0, 0};
    log[i] = isRow ? logsumexp[statistic] * log2e : 0;
    mean[i] = isRow ? delta[statistic] : 0;
  }

  const bool keysAreVectors = p.keyDim % 8 == 0, valuesAreVectors = p.valueDim % 8 == 0;
  const auto loadKeys = [&](int key, int stage) {
    copyTile<D, tileKeys, blockThreads>(
        s.k + stage * tileKeys * D, p.keyDim, keysAreVectors, k, [&](int i) -> const T* {
          return key + i < all.end ? k + p.keyVector(batch, kvHead, key + i) * p.keyDim : nullptr;
        });
    copyTile<E, tileKeys, blockThreads>(
        s.v + stage * tileKeys * E, p.valueDim, valuesAreVectors, v, [&](int i) -> const T* {
          return key + i < all.end ? v + p.keyVector(batch, kvHead, key + i) * p.valueDim : nullptr;
        });
    commitCopies();
  };
  if (all.first < all.end) {
    copyTile<D, blockRows, blockThreads>(s.q, p.keyDim, keysAreVectors, q, [&](int i) -> const T* {
      return firstRow + i < p.rows ? q + p.vector(batch, kvHead, firstRow + i) * p.keyDim : nullptr;
    });
    copyTile<E, blockRows, blockThreads>(s.dOut, p.valueDim, valuesAreVectors, dOut, [&](int i) -> const T* {
      return firstRow + i < p.rows ? dOut + p.vector(batch, kvHead, firstRow + i) * p.valueDim : nullptr;
    });
    loadKeys(all.first, 0);
  }

  auto queryPlaces = Places<D>::ofRows();
  auto dOutPlaces = Places<E>::ofRows();
  queryPlaces.move(warpId() * 16 * D);
  dOutPlaces.move(warpId() * 16 * E);
  auto keyColumns = Places<D>::ofColumns(), keyRows = Places<D>::ofRows();
  auto valueColumns = Places<E>::ofColumns();
  int stage = 0;
  const auto turn = [&] {
    const int by = stage ? -tileKeys : tileKeys;
    keyColumns.move(by * D), keyRows.move(by * D);
    valueColumns.move(by * E);
    stage ^= 1;
  };
  const float factor = p.scale * log2e;
  Sums<D / 8> sums = {};
  for (int key = all.first; key < all.end; key += tileKeys, turn()) {
    awaitCopies<0>();
    __syncthreads();  // this tile is there, and nobody uses the other one any more
    if (key + tileKeys < all.end) loadKeys(key + tileKeys, stage ^ 1);
    if (!seen.isSeen(key, tileKeys)) continue;

    Sums<tileKeys / 8> weights = {}, slopes = {};
    addScores(
        weights, [&](uint32_t(&a)[4], int step) { loadMatrices4(a, queryPlaces.in(s.q, 0, step)); }, s.k, keyColumns);
    addScores(
        slopes, [&](uint32_t(&a)[4], int step) { loadMatrices4(a, dOutPlaces.in(s.dOut, 0, step)); }, s.v,
        valueColumns);
    const bool isMasked = seen.isMasked(key, tileKeys);
#pragma unroll
    for (int i = 0; i < tileKeys / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float weight = exp2Approximate(weights[i][j] * factor - log[j / 2]);
        if (isMasked) {
          const int at = key + i * 8 + lane % 4 * 2 + j % 2;
          if (at < sight[j / 2].from || at >= sight[j / 2].to) weight = 0;
        }
        slopes[i][j] = weight * (slopes[i][j] - mean[j / 2]);
      }
    addWeighted(sums, slopes, s.k, keyRows);
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (row[half] >= p.rows) continue;
    T* to = dq + p.vector(batch, kvHead, row[half]) * p.keyDim;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      storePair(to, n * 8 + lane % 4 * 2, p.keyDim, sums[n][half * 2] * p.scale, sums[n][half * 2 + 1] * p.scale);
  }
}

}  // namespace flash_attention
}  // namespace cuda
}  // namespace hadal
