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

// 39 KiB: with 128 registers a thread two blocks a multiprocessor, which every card has room for.
struct Shared {
  union {
    struct {
      float a[side * chunkRow], b[side * chunkRow];
    };
    float x[depth * 128];
  };
  float weights[side * weightRow];
  int64_t rows[side], keys[side];  // which vectors of their tensors a tile's rows and keys are; -1: zeros
};

// Thread (ty, tx) of 16 × 16 has rows ty + 16·i, and columns tx + 16·j of weights.
__device__ __forceinline__ int ty() { return static_cast<int>(threadIdx.x) / 16; }
__device__ __forceinline__ int tx() { return static_cast<int>(threadIdx.x) % 16; }

// Numbers of a tensor's vectors.
template <class T>
struct Tensor {
  const T* at;
  int stride, dim;
  const int64_t* vectors;

  __device__ float load(int row, int column) const {
    const int64_t vector = vectors[row];
    return vector >= 0 && column < dim ? toFloat(at[vector * stride + column]) : 0.0f;
  }
};

template <class T>
__device__ __forceinline__ void loadChunk(float* tile, int first, Tensor<T> x) {
#pragma unroll 4
  for (int n = 0; n < side * depth / blockThreads; n++) {
    const int i = static_cast<int>(threadIdx.x) + n * blockThreads, row = i / depth, d = i % depth;
    tile[row * chunkRow + d] = x.load(row, first + d);
  }
}
__device__ __forceinline__ void loadFour(float (&x)[4], const float* from) {
  const auto four = *reinterpret_cast<const Pack<float, 4>*>(from);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = four.at[i];
}

// c += a · bᵀ
template <class T>
__device__ __forceinline__ void addScores(float (&c)[4][4], Shared& s, Tensor<T> a, Tensor<T> b) {
  for (int first = 0; first < a.dim; first += depth) {
    __syncthreads();
    loadChunk(s.a, first, a);
    loadChunk(s.b, first, b);
    __syncthreads();
#pragma unroll 1
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
template <int columns, class T>
__device__ __forceinline__ void addWeighted(float (&c)[4][columns / 16], Shared& s, int first, Tensor<T> x) {
  for (int k = 0; k < side; k += depth) {
    __syncthreads();
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < depth * columns; i += blockThreads)
      s.x[i] = x.load(k + i / columns, first + i % columns);
    __syncthreads();
#pragma unroll 1
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

__device__ __forceinline__ int64_t rowVector(const Problem& p, int batch, int kvHead, int row) {
  return row < p.rows ? p.vector(batch, kvHead, row) : -1;
}
__device__ __forceinline__ int64_t keyVector(const Problem& p, int batch, int kvHead, int key, int end) {
  return key < end ? p.keyVector(batch, kvHead, key) : -1;
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

  if (threadIdx.x < side) s.rows[threadIdx.x] = rowVector(p, batch, kvHead, firstRow + static_cast<int>(threadIdx.x));
  for (int key = span.from; key < span.to; key += side) {
    __syncthreads();
    if (threadIdx.x < side)
      s.keys[threadIdx.x] = keyVector(p, batch, kvHead, key + static_cast<int>(threadIdx.x), span.to);
    float scores[4][4] = {};
    addScores<T>(scores, s, {q, p.keyDim, p.keyDim, s.rows}, {k, p.keyDim, p.keyDim, s.keys});
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
    addWeighted<columns, T>(out, s, slice * columns, {v, p.valueStride, p.valueDim, s.keys});
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
