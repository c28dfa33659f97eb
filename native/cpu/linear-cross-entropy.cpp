#include "ops/linear-cross-entropy.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/matmul.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// A chunk of rows is walked twice in blocks of the vocabulary. The first walk computes logits and, while they are in cache,
// e = exp(z − the row's maximum in the block). The second, which knows the sums of whole rows, turns e into the logits'
// gradient and multiplies that. Between the two, e is in the dtype that the products take: bf16 where hidden and weight are,
// else fp32.
// A block of 512 rows of fp32 logits takes 4 MiB, so that it stays in cache between product and exponentials (measured: 512 to
// 8192 columns are alike).
constexpr int64_t blockColumns = 2048;
// e of a chunk takes 16 MiB, half of a last-level cache. At least 256 rows, since each chunk reads the weight and reads and
// writes its gradient (fp32 products, half as fast, hide that with half the rows); at most 512, of which twice as many gain
// little (measured in bf16 at 2048 × 256 × 8192: 704 GFLOP/s in 15 MB, 768 in 28 MB with 1024 rows).
constexpr int64_t chunkBytes = int64_t{1} << 24, mostRows = 512;

HADAL_INLINE bool hasBf16Products(const LinearCrossEntropyParams& p) {
  return p.dtypeH == DType::bf16 && p.dtypeW == DType::bf16;
}
HADAL_INLINE int64_t rowsAChunk(const LinearCrossEntropyParams& p) {
  const bool narrow = hasBf16Products(p);
  const int64_t fitting = chunkBytes / (p.vocab * (narrow ? 2 : 4)), leastRows = narrow ? 256 : 128;
  const int64_t fastest = fitting < leastRows ? leastRows : fitting > mostRows ? mostRows : fitting;
  const int64_t rows = p.chunkRows > 0 ? p.chunkRows : fastest;
  return p.rows < rows ? p.rows : rows;
}
HADAL_INLINE int64_t blocksOf(const LinearCrossEntropyParams& p) { return (p.vocab + blockColumns - 1) / blockColumns; }

// Columns of the vocabulary.
struct Block {
  int64_t index, first, count;
};

template <class Body>
HADAL_INLINE void forBlocks(const LinearCrossEntropyParams& p, Body&& body) {
  for (int64_t b = 0, first = 0; first < p.vocab; b++, first += blockColumns) {
    const int64_t left = p.vocab - first;
    body(Block{b, first, left < blockColumns ? left : blockColumns});
  }
}

// Of one row in one block.
struct BlockSums {
  float maximum, logits, exponentials;
};

// One row: its label (−1: it does not count), its loss, and what its gradient is made of:
// dz = e · factor · exp(the block's maximum − maximum) − offset, less `labelShare` at the label.
struct Row {
  int64_t label;
  float labelLogit, loss, maximum, factor, offset, labelShare;
};

struct Layout {
  int64_t logits, exponentials, sums, rows, dhidden, dweight, product, end;
};

Layout layoutOf(const LinearCrossEntropyParams& p, int threads) {
  const int64_t rows = rowsAChunk(p), columns = p.vocab < blockColumns ? p.vocab : blockColumns;
  const bool narrow = hasBf16Products(p);
  const auto rounded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  Layout at{};
  // fp32 logits become e where they lie.
  at.exponentials = at.logits + (narrow ? rounded(rows * columns * 4) : 0);
  at.sums = at.exponentials + rounded(rows * p.vocab * (narrow ? 2 : 4));
  at.rows = at.sums + rounded(rows * blocksOf(p) * static_cast<int64_t>(sizeof(BlockSums)));
  at.dhidden = at.rows + rounded(rows * static_cast<int64_t>(sizeof(Row)));
  // Gradients are summed in fp32 over blocks and chunks: in their own buffers where those are fp32.
  at.dweight = at.dhidden + (p.dtypeH == DType::fp32 ? 0 : rounded(rows * p.dim * 4));
  at.product = at.dweight + (p.dtypeDW == DType::fp32 ? 0 : rounded(p.vocab * p.dim * 4));
  int64_t product = productWorkspace(rows, columns, DType::fp32, threads);
  const int64_t others[] = {productWorkspace(rows, p.dim, DType::fp32, threads),
                            productWorkspace(columns, p.dim, DType::fp32, threads)};
  for (int64_t other : others) product = other > product ? other : product;
  at.end = at.product + product;
  return at;
}

int64_t workspaceBytes(const LinearCrossEntropyParams& p, int threads) { return layoutOf(p, threads).end; }

// The label, or −1 for a row without one.
HADAL_INLINE int64_t labelOf(const LinearCrossEntropyParams& p, int32_t label, int64_t row, RunContext& context) {
  if (label == p.ignoreIndex) return -1;
  if (label >= 0 && label < p.vocab) return label;
  context.fail("[linear-cross-entropy] expected labels in 0..%lld or %lld, got %d in row %lld",
               static_cast<long long>(p.vocab - 1), static_cast<long long>(p.ignoreIndex), label,
               static_cast<long long>(row));
  return -1;
}

// e = exp(z − max z). May be in place.
template <class T>
HADAL_INLINE BlockSums exponentiate(const float* z, T* e, int64_t count) {
  Vec largest = splat(-INFINITY), logits = {}, exponentials = {};
  forLanes(count, [&](int64_t j, auto part) {
    largest = max(load(z + j, part, -INFINITY), largest);
    logits += load(z + j, part);
  });
  const float most = maximum(largest), shift = most == -INFINITY ? 0 : most;
  forLanes(count, [&](int64_t j, auto part) {
    const Vec x = exp(load(z + j, part, -INFINITY) - shift);
    exponentials += x;
    store(e + j, part, x);
  });
  return {most, sum(logits), sum(exponentials)};
}

// Completes a row by the sums of its blocks, joined in double: a vocabulary is long.
HADAL_INLINE void finishRow(const LinearCrossEntropyParams& p, const BlockSums* blocks, float scale, Row& row) {
  row.maximum = -INFINITY;
  forBlocks(p, [&](Block block) {
    const float most = blocks[block.index].maximum;
    row.maximum = most > row.maximum ? most : row.maximum;
  });
  double logits = 0, exponentials = 0;
  forBlocks(p, [&](Block block) {
    const BlockSums& sums = blocks[block.index];
    logits += sums.logits;
    exponentials += sums.exponentials * std::exp(static_cast<double>(sums.maximum) - row.maximum);
  });
  const double lse = row.maximum + std::log(exponentials), smoothing = p.labelSmoothing;
  // Without smoothing Σ z must not take part: −∞ · 0 is NaN.
  const double spread = smoothing > 0 ? smoothing / p.vocab * logits : 0;
  row.loss = static_cast<float>(lse - (1 - smoothing) * row.labelLogit - spread + p.zLoss * lse * lse);
  row.factor = static_cast<float>(scale * (1 + 2 * p.zLoss * lse) / exponentials);
  row.offset = static_cast<float>(scale * smoothing / p.vocab);
  row.labelShare = static_cast<float>(scale * (1 - smoothing));
}

// Turns e of one row and block into dz.
template <class T>
HADAL_INLINE void writeGradient(T* e, Block block, const Row& row, float blockMaximum) {
  if (row.label < 0) {
    std::memset(e, 0, static_cast<size_t>(block.count) * sizeof(T));
    return;
  }
  const float factor = row.factor * std::exp(blockMaximum - row.maximum);
  const int64_t label = row.label - block.first;
  const bool hasLabel = label >= 0 && label < block.count;
  const float atLabel = hasLabel ? toFloat(e[label]) * factor - row.offset - row.labelShare : 0;
  forLanes(block.count, [&](int64_t j, auto part) { store(e + j, part, load(e + j, part) * factor - row.offset); });
  if (hasLabel) e[label] = fromFloat<T>(atLabel);
}

void convert(const float* from, void* to, DType dtype, int64_t count, int threads) {
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    T* out = static_cast<T*>(to);
    parallelFor(count, threads, 16384, [&](int64_t begin, int64_t end, int) {
      forLanes(end - begin, [&](int64_t i, auto part) { store(out + begin + i, part, load(from + begin + i, part)); });
    });
  });
}

// T is the dtype of e, which lies block by block, rows × columns of each.
template <class T>
void run(const LinearCrossEntropyParams& p, void* const* buffers, RunContext& context) {
  constexpr bool narrow = sizeof(T) == 2;
  constexpr DType dtypeZ = narrow ? DType::bf16 : DType::fp32;
  const int32_t* labels = static_cast<const int32_t*>(buffers[2]);
  const float scale = *static_cast<const float*>(buffers[3]);
  void *const dhidden = buffers[5], *const dweight = buffers[6];
  float* const losses = static_cast<float*>(buffers[7]);

  const Layout at = layoutOf(p, context.threads);
  char* workspace = static_cast<char*>(context.workspace);
  T* const exponentials = reinterpret_cast<T*>(workspace + at.exponentials);
  BlockSums* const sums = reinterpret_cast<BlockSums*>(workspace + at.sums);
  Row* const rowsOfChunk = reinterpret_cast<Row*>(workspace + at.rows);
  float* const dweightSums =
      p.dtypeDW == DType::fp32 ? static_cast<float*>(dweight) : reinterpret_cast<float*>(workspace + at.dweight);
  void* const product = workspace + at.product;
  const int64_t chunk = rowsAChunk(p), blocks = blocksOf(p);
  const auto weightOf = [&](Block block, bool transposed) {
    const int64_t offset = block.first * p.dim * bytesOf(p.dtypeW);
    return Factor{static_cast<const char*>(buffers[1]) + offset, p.dim, transposed, p.dtypeW};
  };

  double total = 0;
  for (int64_t first = 0; first < p.rows; first += chunk) {
    const int64_t rows = p.rows - first < chunk ? p.rows - first : chunk;
    const int64_t offset = first * p.dim * bytesOf(p.dtypeH);
    const Factor hidden{static_cast<const char*>(buffers[0]) + offset, p.dim, false, p.dtypeH};
    for (int64_t i = 0; i < rows; i++) rowsOfChunk[i].label = labelOf(p, labels[first + i], first + i, context);

    const auto forRows = [&](Block block, auto&& body) {
      parallelFor(rows, context.threads, 1 + 4096 / block.count, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++)
          body(exponentials + rows * block.first + i * block.count, i, rowsOfChunk[i], sums[i * blocks + block.index]);
      });
    };
    forBlocks(p, [&](Block block) {
      float* logits = reinterpret_cast<float*>(narrow ? workspace + at.logits
                                                      : reinterpret_cast<char*>(exponentials + rows * block.first));
      runProduct(
          Product{rows, block.count, p.dim, hidden, weightOf(block, true), logits, block.count, DType::fp32, false},
          context.threads, product);
      forRows(block, [&](T* e, int64_t i, Row& row, BlockSums& ofRow) {
        const float* z = logits + i * block.count;
        const int64_t label = row.label - block.first;
        if (label >= 0 && label < block.count) row.labelLogit = z[label];
        ofRow = exponentiate(z, e, block.count);
      });
    });
    for (int64_t i = 0; i < rows; i++) {
      Row& row = rowsOfChunk[i];
      row.loss = 0;
      if (row.label >= 0) finishRow(p, sums + i * blocks, scale, row);
      total += row.loss;
      if (losses) losses[first + i] = row.loss;
    }
    if (!dhidden && !dweight) continue;

    char* const dhiddenOfChunk = dhidden ? static_cast<char*>(dhidden) + offset : nullptr;
    float* const dhiddenSums =
        reinterpret_cast<float*>(p.dtypeH == DType::fp32 ? dhiddenOfChunk : workspace + at.dhidden);
    forBlocks(p, [&](Block block) {
      forRows(block, [&](T* e, int64_t, const Row& row, const BlockSums& ofRow) {
        writeGradient(e, block, row, ofRow.maximum);
      });
      const T* dz = exponentials + rows * block.first;
      if (dhidden) {
        runProduct(Product{rows, p.dim, block.count, Factor{dz, block.count, false, dtypeZ}, weightOf(block, false),
                           dhiddenSums, p.dim, DType::fp32, block.first > 0},
                   context.threads, product);
      }
      if (dweight) {
        runProduct(Product{block.count, p.dim, rows, Factor{dz, block.count, true, dtypeZ}, hidden,
                           dweightSums + block.first * p.dim, p.dim, DType::fp32, first > 0},
                   context.threads, product);
      }
    });
    if (dhidden && p.dtypeH != DType::fp32)
      convert(dhiddenSums, dhiddenOfChunk, p.dtypeH, rows * p.dim, context.threads);
  }
  *static_cast<float*>(buffers[4]) = static_cast<float>(scale * total);

  if (!dweight) return;
  if (p.rows == 0)
    std::memset(dweight, 0, static_cast<size_t>(p.bytesDweight()));
  else if (p.dtypeDW != DType::fp32)
    convert(dweightSums, dweight, p.dtypeDW, p.vocab * p.dim, context.threads);
}

void start(const LinearCrossEntropyParams& p, void* const* buffers, RunContext& context) {
  if (hasBf16Products(p))
    run<Bf16>(p, buffers, context);
  else
    run<float>(p, buffers, context);
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(linearCrossEntropy, LinearCrossEntropyParams, start, workspaceBytes)

}  // namespace HADAL_ISA
}  // namespace hadal
