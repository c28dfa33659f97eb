// Attention's forward by tensor cores over a cache of latents, as when multi-head latent attention decodes: one wide vector a
// token is key and, with its first numbers, value, and all heads are rows of it. DeepSeek-V2, arXiv:2405.04434, sec. 2.1.
//
// The outputs of 16 rows fill a quarter of the registers each: a block takes 16 rows, whose scores its four warps make for
// eight keys each, and whose outputs they make for 128 columns each. Weights and maxima go through shared memory.
#pragma once
#include "cuda/attention-forward.cuh"

namespace hadal {
namespace cuda {
namespace flash_attention {
namespace latent {

constexpr int keyWidth = 576, valueWidth = 512;  // 512 latents and 64 numbers of position
constexpr int rows = 16, tileKeys = 32;          // two tiles and the queries are 90 KiB of the 99 that every card has
constexpr int warpColumns = valueWidth / warps;

template <class T>
struct Shared {
  T k[2 * tileKeys * keyWidth], q[rows * keyWidth], weights[rows * tileKeys];
  float statistics[warps][rows];
};

inline bool fits(const Problem& p) {
  return p.valueStride == p.keyDim && p.keyDim <= keyWidth && p.valueDim <= valueWidth;
}

// Blocks are (batch and kv head, tile of rows, split), splits innermost. `k` is also what values are read from.
template <class T>
__device__ void forward(Problem p, const T* q, const T* k, T* o, float* logsumexp, Partials partials) {
  auto& s = shared<Shared<T>>();
  const int lane = laneId(), warp = warpId(), tiles = (p.rows + rows - 1) / rows;
  unsigned block = blockIdx.x;
  const int split = static_cast<int>(block % partials.splits);
  block /= partials.splits;
  const int firstRow = static_cast<int>(block % tiles) * rows, pair = static_cast<int>(block / tiles);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
  const Bounds all = boundsOf(p, batch, firstRow, min(firstRow + rows, p.rows) - 1);
  const Span span = spanOf(all.first, all.end, split, partials.splits);
  Span sight[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = firstRow + lane / 4 + i * 8;
    sight[i] = row < p.rows ? p.sight(batch, row) : Span{0, 0};
  }

  const bool areVectors = p.keyDim % 8 == 0;
  const auto loadKeys = [&](int key, int stage) {
    copyTile<keyWidth, tileKeys, blockThreads>(
        s.k + stage * tileKeys * keyWidth, p.keyDim, areVectors, k, [&](int i) -> const T* {
          return key + i < span.to ? k + p.keyVector(batch, kvHead, key + i) * p.keyDim : nullptr;
        });
    commitCopies();
  };
  copyTile<keyWidth, rows, blockThreads>(s.q, p.keyDim, areVectors, q, [&](int i) -> const T* {
    return firstRow + i < p.rows ? q + p.vector(batch, kvHead, firstRow + i) * p.keyDim : nullptr;
  });
  loadKeys(span.from, 0);

  const auto queryPlaces = Places<keyWidth>::ofRows();
  const auto weightPlaces = Places<tileKeys>::ofRows();
  // Eight keys and two steps of the depth at once: matrix i of four is chunk i of a pair of steps.
  int keyPlaces[2];
  for (int i = 0; i < 2; i++)
    keyPlaces[i] = (warp * 8 + lane % 8) * keyWidth + permuted<keyWidth>(lane % 8, i * 4 + lane / 8) * 8;
  auto valuePlaces = Places<keyWidth>::ofRows();
  valuePlaces.move(warp * warpColumns);
  int stage = 0;
  const auto turn = [&] {
    const int by = (stage ? -tileKeys : tileKeys) * keyWidth;
    keyPlaces[0] += by, keyPlaces[1] += by;
    valuePlaces.move(by);
    stage ^= 1;
  };

  const float factor = p.scale * log2e;
  Sums<warpColumns / 8> out = {};
  float top[2] = {unseen, unseen}, total[2] = {0, 0};
  for (int key = span.from; key < span.to; key += tileKeys, turn()) {
    awaitCopies<0>();
    __syncthreads();  // this tile is there, and nobody uses the other one any more
    if (key + tileKeys < span.to) loadKeys(key + tileKeys, stage ^ 1);

    float scores[4] = {};
#pragma unroll
    for (int step = 0; step < keyWidth / 16; step += 2) {
      uint32_t a[4], b[4];
      loadMatrices4(b, s.k + keyPlaces[step / 2 % 2] + step / 4 * 64);
      const Right steps = b;
      loadMatrices4(a, queryPlaces.in(s.q, 0, step));
      multiplyAdd<T>(scores, a, steps.low);
      loadMatrices4(a, queryPlaces.in(s.q, 0, step + 1));
      multiplyAdd<T>(scores, a, steps.high);
    }
    float tileTop[2] = {unseen, unseen};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = key + warp * 8 + lane % 4 * 2 + j % 2;
      const bool isSeen = at >= sight[j / 2].from && at < sight[j / 2].to;
      scores[j] = isSeen ? scores[j] * factor : lowest;
      tileTop[j / 2] = fmaxf(tileTop[j / 2], scores[j]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      tileTop[i] = quadMax(tileTop[i]);
      if (lane % 4 == 0) s.statistics[warp][lane / 4 + i * 8] = tileTop[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = lane / 4 + i * 8;
      float most = top[i];
#pragma unroll
      for (int w = 0; w < warps; w++) most = fmaxf(most, s.statistics[w][row]);
      const float decay = exp2Approximate(top[i] - most);
      top[i] = most;
      scores[2 * i] = exp2Approximate(scores[2 * i] - most);
      scores[2 * i + 1] = exp2Approximate(scores[2 * i + 1] - most);
      total[i] = total[i] * decay + (scores[2 * i] + scores[2 * i + 1]);
      const int at = row * tileKeys + permuted<tileKeys>(row, warp) * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t*>(s.weights + at) = packPair<T>(scores[2 * i], scores[2 * i + 1]);
#pragma unroll
      for (int n = 0; n < warpColumns / 8; n++) out[n][2 * i] *= decay, out[n][2 * i + 1] *= decay;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < tileKeys / 16; i++) {
      uint32_t a[4];
      loadMatrices4(a, weightPlaces.in(s.weights, 0, i));
#pragma unroll
      for (int step = 0; step < warpColumns / 16; step++) {
        const Right b = loadRightRows(s.k, valuePlaces, i * 16, step);
        multiplyAdd<T>(out[2 * step], a, b.low);
        multiplyAdd<T>(out[2 * step + 1], a, b.high);
      }
    }
  }
  awaitCopies<0>();  // where there were no keys

#pragma unroll
  for (int i = 0; i < 2; i++) {
    total[i] = quadSum(total[i]);
    if (lane % 4 == 0) s.statistics[warp][lane / 4 + i * 8] = total[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; i++) {
    total[i] = 0;
#pragma unroll
    for (int w = 0; w < warps; w++) total[i] += s.statistics[w][lane / 4 + i * 8];
  }
  finish(p, {pair, firstRow, split, span.from < span.to}, sight, partials, top, total, out, warp * warpColumns, o,
         logsumexp);
}

}  // namespace latent
}  // namespace flash_attention
}  // namespace cuda
}  // namespace hadal
