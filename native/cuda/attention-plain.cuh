// Attention without tensor cores: fp32, whose numbers tf32 would change, and heads too wide for the tensor-core kernels.
// Products are of 64 × 64 numbers by 256 threads, 4 × 4 a thread, over chunks of the depth in shared memory.
//
// A block makes the outputs of 64 rows (of queries or keys) in a slice of columns, so that heads may have any size; blocks of
// other slices compute the same scores again.
#pragma once
#include "cuda/attention-forward.cuh"

namespace hadal {
namespace cuda {
namespace flash_attention {
namespace plain {

constexpr int side = 64;       // rows and keys of a tile
constexpr int depth = 32;      // of a chunk: a warp reads 128 bytes of a row of fp32
constexpr int chunkRow = 36;   // eight rows, read as vectors of four, lie in 32 different banks
constexpr int weightRow = 80;  // rows of two half-warps lie 16 banks apart
constexpr int blockThreads = 256;

// 38 KiB: five blocks a multiprocessor of 228 KiB, whose registers four fill.
struct Shared {
  union {
    struct {
      float a[side * chunkRow], b[side * chunkRow];
    };
    float x[depth * 128];
  };
  float weights[side * weightRow];
};

// Thread (ty, tx) of 16 × 16 has rows ty + 16·i, and columns tx + 16·j of weights.
__device__ __forceinline__ int ty() { return static_cast<int>(threadIdx.x) / 16; }
__device__ __forceinline__ int tx() { return static_cast<int>(threadIdx.x) % 16; }

template <class Source>
__device__ __forceinline__ void loadChunk(float* tile, int first, int dim, Source source) {
#pragma unroll
  for (int n = 0; n < side * depth / blockThreads; n++) {
    const int i = static_cast<int>(threadIdx.x) + n * blockThreads, row = i / depth, d = i % depth;
    const auto* from = source(row);
    tile[row * chunkRow + d] = from && first + d < dim ? toFloat(from[first + d]) : 0.0f;
  }
}
__device__ __forceinline__ void loadFour(float (&x)[4], const float* from) {
  const auto four = *reinterpret_cast<const Pack<float, 4>*>(from);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = four.at[i];
}

// c += a · bᵀ; a(i), b(i) are where row i of dim numbers lies, or null.
template <class A, class B>
__device__ __forceinline__ void addScores(float (&c)[4][4], Shared& s, int dim, A a, B b) {
  for (int first = 0; first < dim; first += depth) {
    __syncthreads();
    loadChunk(s.a, first, dim, a);
    loadChunk(s.b, first, dim, b);
    __syncthreads();
#pragma unroll 2
    for (int d = 0; d < depth; d += 4) {
      float left[4][4], right[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        loadFour(left[i], s.a + (ty() + 16 * i) * chunkRow + d);
        loadFour(right[i], s.b + (tx() + 16 * i) * chunkRow + d);
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) c[i][j] = fmaf(left[i][e], right[j][e], c[i][j]);
    }
  }
}

// c += weights · x[64][columns first …]; number j of a thread's row is column 64·(j / 4) + 4·tx + j mod 4 of the slice.
template <int columns, class X>
__device__ __forceinline__ void addWeighted(float (&c)[4][columns / 16], Shared& s, int first, int dim, X x) {
  for (int k = 0; k < side; k += depth) {
    __syncthreads();
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < depth * columns; i += blockThreads) {
      const int column = first + i % columns;
      const auto* from = x(k + i / columns);
      s.x[i] = from && column < dim ? toFloat(from[column]) : 0.0f;
    }
    __syncthreads();
#pragma unroll 2
    for (int d = 0; d < depth; d += 4) {
      float left[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) loadFour(left[i], s.weights + (ty() + 16 * i) * weightRow + k + d);
#pragma unroll
      for (int e = 0; e < 4; e++)
#pragma unroll
        for (int block = 0; block < columns / 64; block++) {
          float right[4];
          loadFour(right, s.x + (d + e) * columns + block * 64 + tx() * 4);
#pragma unroll
          for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) c[i][block * 4 + j] = fmaf(left[i][e], right[j], c[i][block * 4 + j]);
        }
    }
  }
}

__device__ __forceinline__ void storeWeights(Shared& s, const float (&weights)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) s.weights[(ty() + 16 * i) * weightRow + tx() + 16 * j] = weights[i][j];
}

template <class T, int columns>
__device__ __forceinline__ void storeRow(T* row, int first, int dim, const float (&x)[columns / 16], float factor) {
#pragma unroll
  for (int j = 0; j < columns / 16; j++) {
    const int column = first + j / 4 * 64 + tx() * 4 + j % 4;
    if (column < dim) row[column] = fromFloat<T>(x[j] * factor);
  }
}

// Blocks are (batch and kv head, tile, split, slice), slices innermost.
template <class T, int columns>
__device__ void forward(Problem p, const T* q, const T* k, const T* v, T* o, float* logsumexp, Partials partials) {
  auto& s = shared<Shared>();
  const int slices = (p.valueDim + columns - 1) / columns, tiles = (p.rows + side - 1) / side;
  unsigned block = blockIdx.x;
  const int slice = static_cast<int>(block % slices);
  block /= slices;
  const int split = static_cast<int>(block % partials.splits);
  block /= partials.splits;
  const int firstRow = (tiles - 1 - static_cast<int>(block % tiles)) * side, pair = static_cast<int>(block / tiles);
  const int batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
  const Bounds all = boundsOf(p, batch, firstRow, min(firstRow + side, p.rows) - 1);
  const Span span = spanOf(all.first, all.end, split, partials.splits);

  Span sight[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = firstRow + ty() + 16 * i;
    sight[i] = row < p.rows ? p.sight(batch, row) : Span{0, 0};
  }
  float out[4][columns / 16] = {}, top[4], total[4];
#pragma unroll
  for (int i = 0; i < 4; i++) top[i] = unseen, total[i] = 0;

  for (int key = span.from; key < span.to; key += side) {
    float scores[4][4] = {};
    const auto keyAt = [&](int i) { return p.keyVector(batch, kvHead, key + i); };
    addScores(
        scores, s, p.keyDim,
        [&](int i) -> const T* {
          return firstRow + i < p.rows ? q + p.vector(batch, kvHead, firstRow + i) * p.keyDim : nullptr;
        },
        [&](int i) -> const T* { return key + i < span.to ? k + keyAt(i) * p.keyDim : nullptr; });
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float most = top[i], sum = 0;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int at = key + tx() + 16 * j;
        const bool isSeen = at >= sight[i].from && at < min(sight[i].to, span.to);
        scores[i][j] = isSeen ? scores[i][j] * p.scale : lowest;
        most = fmaxf(most, scores[i][j]);
      }
#pragma unroll
      for (int width = 8; width > 0; width /= 2) most = fmaxf(most, __shfl_xor_sync(wholeWarp, most, width));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        scores[i][j] = expf(scores[i][j] - most);
        sum += scores[i][j];
      }
#pragma unroll
      for (int width = 8; width > 0; width /= 2) sum += __shfl_xor_sync(wholeWarp, sum, width);
      const float decay = expf(top[i] - most);
      top[i] = most;
      total[i] = total[i] * decay + sum;
#pragma unroll
      for (int j = 0; j < columns / 16; j++) out[i][j] *= decay;
    }
    storeWeights(s, scores);
    addWeighted<columns>(out, s, slice * columns, p.valueDim,
                         [&](int i) -> const T* { return key + i < span.to ? v + keyAt(i) * p.valueStride : nullptr; });
  }

#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = firstRow + ty() + 16 * i;
    if (row >= p.rows) continue;
    const bool tells = slice == 0 && tx() == 0;
    if (partials.splits > 1) {
      const int64_t at = (static_cast<int64_t>(pair) * p.rows + row) * partials.splits + split;
      if (tells) partials.maxima[at] = top[i], partials.sums[at] = total[i];
      if (span.from < span.to)
        storeRow<float, columns>(partials.o + at * p.valueDim, slice * columns, p.valueDim, out[i], 1);
    } else {
      const bool isBlind = sight[i].from >= sight[i].to;
      storeRow<T, columns>(o + p.vector(batch, kvHead, row) * p.valueDim, slice * columns, p.valueDim, out[i],
                           isBlind ? 0.0f : 1 / total[i]);
      if (logsumexp && tells) logsumexp[p.statistic(batch, kvHead, row)] = isBlind ? 0.0f : top[i] + logf(total[i]);
    }
  }
}

}  // namespace plain
}  // namespace flash_attention
}  // namespace cuda
}  // namespace hadal
