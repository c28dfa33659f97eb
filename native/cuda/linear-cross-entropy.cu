// Formulas, shapes, bytes: native/ops/linear-cross-entropy.h. Chunk of rows by chunk: a product gives logits, a block a row turns
// them into the row's loss and its gradient by them, two more products give the gradients of hidden and weight. Beside the products,
// logits are written once and read twice, and their gradient is written once: 14 bytes a logit in 16 bits, 16 in fp32.
//
// Where hidden and weight are both bf16 or both fp16, so is the logits' gradient, and all products are on tensor cores. In fp16 it
// is the gradient of the sum of losses, as scale may be less than the least number of fp16: scale comes in at the end, in fp32.
#include "cuda/launch.cuh"
#include "cuda/product.h"
// After launch.cuh, which makes its helpers run on the device.
#include <cmath>

#include "ops/linear-cross-entropy.h"

namespace hadal {
namespace cuda {
namespace linear_cross_entropy {

// ---- How rows are cut

bool hasNarrowProducts(const LinearCrossEntropyParams& p) { return p.dtypeH == p.dtypeW && p.dtypeH != DType::fp32; }
bool isScaledLast(const LinearCrossEntropyParams& p) { return hasNarrowProducts(p) && p.dtypeH == DType::fp16; }
DType dtypeZ(const LinearCrossEntropyParams& p) { return hasNarrowProducts(p) ? p.dtypeH : DType::fp32; }

// Numbers between rows of logits: whole lines of 128 bytes in any dtype, whatever the vocabulary's size. Products then copy 16
// bytes at a time.
int64_t strideOf(const LinearCrossEntropyParams& p) { return (p.vocab + 63) / 64 * 64; }

// Every chunk reads the weight twice, and reads and writes its gradient in fp32: 12 bytes for 6 multiply-adds a row and number of
// the weight. From about a thousand rows on, an H100's tensor cores take as long as its memory. More only where that needs less
// than half a GiB; multiples of a tile's 128 rows.
int64_t rowsAChunk(const LinearCrossEntropyParams& p) {
  constexpr int64_t bytes = int64_t{1} << 29, least = 1024, most = 4096, tile = 128;
  const int64_t fitting = bytes / (strideOf(p) * (hasNarrowProducts(p) ? 6 : 4)) / tile * tile;
  const int64_t fastest = fitting < least ? least : fitting > most ? most : fitting;
  const int64_t rows = p.chunkRows > 0 ? p.chunkRows : fastest;
  return p.rows < rows ? p.rows : rows;
}

// ---- Device code

// What a row's gradient is made of: dz = exp(z − most) · factor − offset, less `atLabel` at the label.
struct Slope {
  float factor, offset, atLabel;
};

template <int blockThreads>
struct RowShared {
  float sums[blockThreads / warpSize];
  Slope slope;
};

// Rows of one chunk, which begins at row `first` of all.
struct Chunk {
  LinearCrossEntropyParams p;
  int64_t first, stride;
  const int32_t* labels;
  const float* scale;  // null: 1
  float* logits;
  void* dlogits;  // may be the logits; null: not wanted
  float* losses;  // of all rows
};

// Four vectors of four a thread are under way at the same time.
constexpr int vectors = 4;
struct Part {
  Pack<float, 4> at[vectors];
};

// z[4 · (first + b · step)] and the next three for b = 0 … 3; −∞ beyond the row's end.
__device__ __forceinline__ Part loadPart(const float* z, int64_t first, int step, int64_t count) {
  Part part;
#pragma unroll
  for (int b = 0; b < vectors; b++) {
    const int64_t i = 4 * (first + b * step);
    if (i + 4 <= count) {
      part.at[b] = *reinterpret_cast<const Pack<float, 4>*>(z + i);
    } else {
#pragma unroll
      for (int l = 0; l < 4; l++) part.at[b].at[l] = i + l < count ? z[i + l] : -INFINITY;
    }
  }
  return part;
}

template <class T>
__device__ __forceinline__ void storeFour(T* to, int64_t i, int64_t count, const float (&x)[4], bool isWide = true) {
  if (isWide && i + 4 <= count) {
    Pack<T, 4> four;
#pragma unroll
    for (int l = 0; l < 4; l++) four.at[l] = fromFloat<T>(x[l]);
    *reinterpret_cast<Pack<T, 4>*>(to + i) = four;
  } else {
#pragma unroll
    for (int l = 0; l < 4; l++)
      if (i + l < count) to[i + l] = fromFloat<T>(x[l]);
  }
}

// −∞ less itself is no number: a row, or what a thread has seen of it, may be −∞ throughout.
__device__ __forceinline__ float shiftOf(float most) { return most == -INFINITY ? 0 : most; }

// Of a row: its largest number, and the sums of exp(z − that) and of z.
struct RowSums {
  float most, exponentials, logits;
};

template <int blockThreads>
__device__ __forceinline__ RowSums sumRow(const float* z, int64_t count, bool sumsLogits, float* shared) {
  float most = -INFINITY, exponentials = 0, logits = 0;
  for (int64_t first = threadIdx.x; 4 * first < count; first += vectors * blockThreads) {
    const Part part = loadPart(z, first, blockThreads, count);
    const float before = most;
#pragma unroll
    for (int b = 0; b < vectors; b++) {
#pragma unroll
      for (int l = 0; l < 4; l++) most = fmaxf(most, part.at[b].at[l]);
    }
    const float shift = shiftOf(most);
    exponentials *= expf(before - shift);
#pragma unroll
    for (int b = 0; b < vectors; b++) {
#pragma unroll
      for (int l = 0; l < 4; l++) {
        exponentials += expf(part.at[b].at[l] - shift);
        if (sumsLogits && 4 * (first + b * blockThreads) + l < count) logits += part.at[b].at[l];
      }
    }
  }
  const float mostOfAll = blockMax<blockThreads>(most, shared);
  exponentials = blockSum<blockThreads>(exponentials * expf(most - shiftOf(mostOfAll)), shared);
  if (sumsLogits) logits = blockSum<blockThreads>(logits, shared);
  return {mostOfAll, exponentials, logits};
}

// By one thread, in double: sums over a vocabulary are large beside a loss.
__device__ __forceinline__ float lossOf(const Chunk& chunk, const RowSums& sums, float labelLogit, Slope& slope) {
  const LinearCrossEntropyParams& p = chunk.p;
  const double lse = sums.most + log(static_cast<double>(sums.exponentials)), smoothing = p.labelSmoothing;
  const double scale = chunk.scale ? *chunk.scale : 1;
  // Without smoothing Σ z must not take part: −∞ · 0 is NaN.
  const double spread = smoothing > 0 ? smoothing / p.vocab * sums.logits : 0;
  slope.factor = static_cast<float>(scale * (1 + 2 * p.zLoss * lse) / sums.exponentials);
  slope.offset = static_cast<float>(scale * smoothing / p.vocab);
  slope.atLabel = static_cast<float>(scale * (1 - smoothing));
  return static_cast<float>(lse - (1 - smoothing) * labelLogit - spread + p.zLoss * lse * lse);
}

// A block a row. T is the dtype of dlogits.
template <class T, int blockThreads>
__device__ void finishRow(Chunk chunk, FaultSite faults) {
  auto& s = shared<RowShared<blockThreads>>();
  const int64_t row = blockIdx.x, vocab = chunk.p.vocab;
  const float* const z = chunk.logits + row * chunk.stride;
  T* const dz = chunk.dlogits ? static_cast<T*>(chunk.dlogits) + row * chunk.stride : nullptr;
  const int32_t label = chunk.labels[chunk.first + row];
  const bool isIgnored = label == chunk.p.ignoreIndex, isKnown = label >= 0 && label < vocab;
  if (isIgnored || !isKnown) {
    if (threadIdx.x == 0) {
      if (!isIgnored) faults.report(label, chunk.first + row);
      chunk.losses[chunk.first + row] = 0;
    }
    const float zeros[4] = {};
    for (int64_t i = threadIdx.x; dz && 4 * i < vocab; i += blockThreads) storeFour(dz, 4 * i, vocab, zeros);
    return;
  }
  const float labelLogit = z[label];  // before dz takes its place
  const RowSums sums = sumRow<blockThreads>(z, vocab, chunk.p.labelSmoothing > 0, s.sums);
  if (threadIdx.x == 0) chunk.losses[chunk.first + row] = lossOf(chunk, sums, labelLogit, s.slope);
  if (!dz) return;
  __syncthreads();
  const Slope slope = s.slope;
  const float shift = shiftOf(sums.most);
  for (int64_t first = threadIdx.x; 4 * first < vocab; first += vectors * blockThreads) {
    const Part part = loadPart(z, first, blockThreads, vocab);
#pragma unroll
    for (int b = 0; b < vectors; b++) {
      const int64_t i = 4 * (first + b * blockThreads);
      float x[4];
#pragma unroll
      for (int l = 0; l < 4; l++) {
        x[l] = expf(part.at[b].at[l] - shift) * slope.factor - slope.offset;
        if (i + l == label) x[l] -= slope.atLabel;
      }
      storeFour(dz, i, vocab, x);
    }
  }
}

struct LossShared {
  double sums[threads / warpSize];
};

// One block; sums in double, in the same order every time.
__device__ void sumLosses(int64_t rows, const float* losses, const float* scale, float* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += threads) sum += losses[i];
  sum = blockSum<threads>(sum, shared<LossShared>().sums);
  if (threadIdx.x == 0) *loss = static_cast<float>(*scale * sum);
}

// to = from · scale, which is 1 where null. May be in place. isWide: four numbers of `to` can be stored at once.
template <class T>
__device__ void finishGradient(int64_t count, const float* from, const float* scale, T* to, bool isWide) {
  const float factor = scale ? *scale : 1;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; 4 * i < count; i += step) {
    float x[4];
    if (4 * i + 4 <= count) {
      const auto four = reinterpret_cast<const Pack<float, 4>*>(from)[i];
#pragma unroll
      for (int l = 0; l < 4; l++) x[l] = four.at[l] * factor;
    } else {
#pragma unroll
      for (int l = 0; l < 4; l++) x[l] = 4 * i + l < count ? from[4 * i + l] * factor : 0;
    }
    storeFour(to, 4 * i, count, x, isWide);
  }
}

// ---- Workspace and launches

// The three products of `rows` rows. Addresses are still missing.
struct Products {
  cublaslt::Product logits, dhidden, dweight;
};

Products productsOf(const LinearCrossEntropyParams& p, int64_t rows) {
  const DType z = dtypeZ(p), h = p.dtypeH, w = p.dtypeW, sums = isScaledLast(p) ? DType::fp32 : h;
  const auto product = [](int64_t m, int64_t n, int64_t k, bool transposeA, bool transposeB, DType a, DType b,
                          DType c) {
    return cublaslt::Product{1, m, n, k, transposeA, transposeB, a, b, c, nullptr, nullptr, nullptr};
  };
  Products of{product(rows, p.vocab, p.dim, false, true, h, w, DType::fp32),
              product(rows, p.dim, p.vocab, false, false, z, w, sums),
              product(p.vocab, p.dim, rows, true, false, z, h, DType::fp32)};
  of.logits.strideC = of.dhidden.strideA = of.dweight.strideA = strideOf(p);
  return of;
}

struct Layout {
  int64_t logits, dlogits, losses, dhidden, dweight, product, end;
};

Layout layoutOf(const LinearCrossEntropyParams& p) {
  const int64_t rows = rowsAChunk(p), last = rows > 0 ? p.rows % rows : 0;
  const auto rounded = [](int64_t bytes) { return (bytes + 127) / 128 * 128; };
  Layout at{};
  at.dlogits = at.logits + rounded(rows * strideOf(p) * 4);
  at.losses = at.dlogits + (hasNarrowProducts(p) ? rounded(rows * strideOf(p) * 2) : 0);
  at.dhidden = at.losses + rounded(p.rows * 4);
  at.dweight = at.dhidden + (isScaledLast(p) ? rounded(rows * p.dim * 4) : 0);
  // Sums of chunks in fp32: in their own buffer where that is fp32.
  at.product = at.dweight + (p.dtypeDW == DType::fp32 ? 0 : rounded(p.vocab * p.dim * 4));
  int64_t product = 0;
  for (const int64_t count : {rows, last}) {
    const Products of = productsOf(p, count);
    for (const auto& one : {of.logits, of.dhidden, of.dweight}) {
      const int64_t bytes = productWorkspace(one);
      product = bytes > product ? bytes : product;
    }
  }
  at.end = at.product + product;
  return at;
}

int64_t workspaceBytes(const LinearCrossEntropyParams& p, int) { return layoutOf(p).end; }

void launchRows(const Chunk& chunk, int64_t rows, RunContext& context) {
  // As many threads as a block may have: the fewer rows at a time, the more of them the second-level cache still has when they are read
  // again. Four warps do for a small vocabulary.
  constexpr int many = 1024, few = 128;
  constexpr int64_t smallVocab = 4096;
  dispatch(dtypeZ(chunk.p), [&](auto zero) {
    using T = decltype(zero);
    if (chunk.p.vocab <= smallVocab)
      launch<finishRow<T, few>, few>(context, {.x = blocksFor(rows, 1), .sharedBytes = sizeof(RowShared<few>)}, chunk,
                                     faultsOf(context));
    else
      launch<finishRow<T, many>, many>(context, {.x = blocksFor(rows, 1), .sharedBytes = sizeof(RowShared<many>)},
                                       chunk, faultsOf(context));
  });
}

void launchFinish(int64_t count, const float* from, const float* scale, void* to, DType dtype, RunContext& context) {
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    // A chunk of few rows may begin at any number of dhidden.
    launch<finishGradient<T>, threads>(context, {.x = blocksFor(count, 4 * threads)}, count, from, scale,
                                       static_cast<T*>(to), isAligned(to, sizeof(Pack<T, 4>)));
  });
}

void run(const LinearCrossEntropyParams& p, void* const* b, RunContext& context) {
  const Layout at = layoutOf(p);
  char* const workspace = static_cast<char*>(context.workspace);
  const auto* const scale = static_cast<const float*>(b[3]);
  const float* const lastScale = isScaledLast(p) ? scale : nullptr;
  void *const dhidden = b[5], *const dweight = b[6];
  float* const logits = reinterpret_cast<float*>(workspace + at.logits);
  void* const narrow = hasNarrowProducts(p) ? workspace + at.dlogits : nullptr;
  void* const dlogits = narrow ? narrow : logits;
  float* const losses = b[7] ? static_cast<float*>(b[7]) : reinterpret_cast<float*>(workspace + at.losses);
  float* const dhiddenSums = reinterpret_cast<float*>(workspace + at.dhidden);
  float* const dweightSums =
      p.dtypeDW == DType::fp32 ? static_cast<float*>(dweight) : reinterpret_cast<float*>(workspace + at.dweight);
  const bool hasGradients = dhidden || dweight;
  const int64_t step = rowsAChunk(p);

  // Without rows, too: a product of no terms makes dweight zero.
  int64_t first = 0;
  do {
    const int64_t rows = p.rows - first < step ? p.rows - first : step;
    const int64_t offset = first * p.dim * bytesOf(p.dtypeH);
    const char* const hidden = static_cast<const char*>(b[0]) + offset;
    Products products = productsOf(p, rows);
    const auto multiplyInto = [&](cublaslt::Product& product, const void* left, const void* right, void* out) {
      product.a = left, product.b = right, product.c = out;
      runProduct(product, workspace + at.product, context);
    };
    multiplyInto(products.logits, hidden, b[1], logits);
    launchRows({p, first, strideOf(p), static_cast<const int32_t*>(b[2]), lastScale ? nullptr : scale, logits,
                hasGradients ? dlogits : nullptr, losses},
               rows, context);
    if (dhidden) {
      char* const out = static_cast<char*>(dhidden) + offset;
      multiplyInto(products.dhidden, dlogits, b[1], lastScale ? static_cast<void*>(dhiddenSums) : out);
      if (lastScale) launchFinish(rows * p.dim, dhiddenSums, lastScale, out, p.dtypeH, context);
    }
    if (dweight) {
      products.dweight.addend = first > 0 ? dweightSums : nullptr;
      multiplyInto(products.dweight, dlogits, hidden, dweightSums);
    }
    first += rows;
  } while (first < p.rows);

  launch<sumLosses, threads>(context, {.sharedBytes = sizeof(LossShared)}, p.rows, static_cast<const float*>(losses),
                             scale, static_cast<float*>(b[4]));
  if (dweight && (lastScale || p.dtypeDW != DType::fp32))
    launchFinish(p.vocab * p.dim, dweightSums, lastScale, dweight, p.dtypeDW, context);
}

void explain(const LinearCrossEntropyParams& p, const Fault& fault, RunContext& context) {
  context.fail("[linear-cross-entropy] expected labels in 0..%lld or %lld, got %d in row %lld",
               static_cast<long long>(p.vocab - 1), static_cast<long long>(p.ignoreIndex),
               static_cast<int>(fault.numbers[0]), static_cast<long long>(fault.numbers[1]));
}

}  // namespace linear_cross_entropy

HADAL_KERNEL_WITH_FAULTS(linearCrossEntropy, LinearCrossEntropyParams, linear_cross_entropy::run,
                         linear_cross_entropy::workspaceBytes, linear_cross_entropy::explain)

}  // namespace cuda
}  // namespace hadal
