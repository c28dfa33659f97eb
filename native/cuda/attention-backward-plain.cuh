// Attention's backward without tensor cores. As in the forward a block makes a slice of columns for 64 keys or rows, and
// computes their scores for itself; a slice is of dk or of dv.
#pragma once
#include "cuda/attention-plain.cuh"

namespace hadal {
namespace cuda {
namespace flash_attention {
namespace plain {

// Blocks are (batch and kv head, tile of keys, slice), slices innermost: first those of dv, then those of dk.
template <class T, int columns>
__device__ void backwardKeys(Problem p, const T* dOut, const T* q, const T* k, const T* v, const float* logsumexp,
                             const float* delta, T* dk, T* dv) {
  auto& s = shared<Shared>();
  const int valueSlices = (p.valueDim + columns - 1) / columns, keySlices = (p.keyDim + columns - 1) / columns;
  const int tiles = (p.keys + side - 1) / side, thread = static_cast<int>(threadIdx.x);
  unsigned block = blockIdx.x;
  const int slice = static_cast<int>(block % (valueSlices + keySlices));
  block /= valueSlices + keySlices;
  const int firstKey = static_cast<int>(block % tiles) * side, pair = static_cast<int>(block / tiles);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
  const bool isValue = slice < valueSlices;
  if (!(isValue ? dv : dk)) return;
  const int firstColumn = (isValue ? slice : slice - valueSlices) * columns;
  const Rows rows = rowsOf(p, batch, firstKey, min(firstKey + side, p.keys));

  if (thread < side) s.keys[thread] = keyVector(p, batch, kvHead, firstKey + thread, p.usedKeys(batch));
  float out[4][columns / 16] = {};
  for (int row = rows.first; row < rows.end; row += side) {
    __syncthreads();
    if (thread < side) s.rows[thread] = row + thread < rows.end ? p.vector(batch, kvHead, row + thread) : -1;
    const Tensor<T> keys{k, p.keyDim, p.keyDim, s.keys}, values{v, p.valueDim, p.valueDim, s.keys};
    const Tensor<T> queries{q, p.keyDim, p.keyDim, s.rows}, gradients{dOut, p.valueDim, p.valueDim, s.rows};
    float weights[4][4] = {}, slopes[4][4] = {};
    addScores(weights, s, keys, queries);
    if (!isValue) addScores(slopes, s, values, gradients);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = row + tx() + 16 * j;
      const bool isRow = at < rows.end;
      const int64_t statistic = isRow ? p.statistic(batch, kvHead, at) : 0;
      const Span sight = isRow ? p.sight(batch, at) : Span{0, 0};
      const float log = logsumexp[statistic], mean = delta[statistic];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int key = firstKey + ty() + 16 * i;
        const bool isSeen = key >= sight.from && key < sight.to;
        weights[i][j] = isSeen ? expf(weights[i][j] * p.scale - log) : 0.0f;
        if (!isValue) weights[i][j] *= slopes[i][j] - mean;
      }
    }
    storeWeights(s, weights);
    addWeighted<columns>(out, s, firstColumn, isValue ? gradients : queries);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int key = firstKey + ty() + 16 * i;
    if (key >= p.keys) continue;
    const int dim = isValue ? p.valueDim : p.keyDim;
    T* const to = (isValue ? dv : dk) + p.keyVector(batch, kvHead, key) * dim;
    storeRow<T, columns>(to, firstColumn, dim, out[i], isValue ? 1.0f : p.scale);
  }
}

// Blocks are (batch and kv head, tile of rows, slice), slices innermost.
template <class T, int columns>
__device__ void backwardQueries(Problem p, const T* dOut, const T* q, const T* k, const T* v, const float* logsumexp,
                                const float* delta, T* dq) {
  auto& s = shared<Shared>();
  const int slices = (p.keyDim + columns - 1) / columns, tiles = (p.rows + side - 1) / side;
  const int firstColumn = static_cast<int>(blockIdx.x % slices) * columns, thread = static_cast<int>(threadIdx.x);
  const unsigned block = blockIdx.x / slices;
  const int firstRow = (tiles - 1 - static_cast<int>(block % tiles)) * side, pair = static_cast<int>(block / tiles);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
  const Bounds all = boundsOf(p, batch, firstRow, min(firstRow + side, p.rows) - 1);

  if (thread < side) s.rows[thread] = rowVector(p, batch, kvHead, firstRow + thread);
  float out[4][columns / 16] = {};
  for (int key = all.first; key < all.end; key += side) {
    __syncthreads();
    if (thread < side) s.keys[thread] = keyVector(p, batch, kvHead, key + thread, all.end);
    const Tensor<T> keys{k, p.keyDim, p.keyDim, s.keys}, values{v, p.valueDim, p.valueDim, s.keys};
    const Tensor<T> queries{q, p.keyDim, p.keyDim, s.rows}, gradients{dOut, p.valueDim, p.valueDim, s.rows};
    float weights[4][4] = {}, slopes[4][4] = {};
    addScores(weights, s, queries, keys);
    addScores(slopes, s, gradients, values);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int at = firstRow + ty() + 16 * i;
      const bool isRow = at < p.rows;
      const int64_t statistic = isRow ? p.statistic(batch, kvHead, at) : 0;
      const Span sight = isRow ? p.sight(batch, at) : Span{0, 0};
      const float log = logsumexp[statistic], mean = delta[statistic];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int seenKey = key + tx() + 16 * j;
        const bool isSeen = seenKey >= sight.from && seenKey < min(sight.to, all.end);
        weights[i][j] = isSeen ? expf(weights[i][j] * p.scale - log) * (slopes[i][j] - mean) : 0.0f;
      }
    }
    storeWeights(s, weights);
    addWeighted<columns>(out, s, firstColumn, keys);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = firstRow + ty() + 16 * i;
    if (row < p.rows)
      storeRow<T, columns>(dq + p.vector(batch, kvHead, row) * p.keyDim, firstColumn, p.keyDim, out[i], p.scale);
  }
}

}  // namespace plain
}  // namespace flash_attention
}  // namespace cuda
}  // namespace hadal
