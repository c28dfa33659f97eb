#include "ops/linear-cross-entropy.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/matmul.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Rows whose fp32 logits take about 8 MiB, so that they stay in cache between the product and the softmax; at least 128, below
// which the products, each of which reads the whole weight, wait for memory (measured: 64 rows run at two thirds of the speed).
HADAL_INLINE int64_t rowsAChunk(const LinearCrossEntropyParams& p) {
  const int64_t fitting = (int64_t{1} << 21) / p.vocab, rows = fitting < 128 ? 128 : fitting;
  return p.rows < rows ? p.rows : rows;
}

// The logits' gradient goes into the products in bf16 where hidden and weight are bf16, which has fast products of its own.
HADAL_INLINE bool hasBf16Products(const LinearCrossEntropyParams& p) {
  return p.dtypeH == DType::bf16 && p.dtypeW == DType::bf16;
}

struct Layout {
  int64_t logits, losses, gradient, sums, product, end;
};

Layout layoutOf(const LinearCrossEntropyParams& p, int threads) {
  const int64_t chunk = rowsAChunk(p);
  const auto rounded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  Layout at{};
  at.losses = at.logits + rounded(chunk * p.vocab * 4);
  at.gradient = at.losses + rounded(chunk * 4);
  at.sums = at.gradient + (hasBf16Products(p) ? rounded(chunk * p.vocab * 2) : 0);
  // dweight is summed over the chunks in fp32: in its own buffer where that is fp32.
  at.product = at.sums + (p.dtypeW == DType::fp32 ? 0 : rounded(p.vocab * p.dim * 4));
  int64_t product = productWorkspace(chunk, p.vocab, DType::fp32, threads);
  const int64_t others[] = {productWorkspace(chunk, p.dim, p.dtypeH, threads),
                            productWorkspace(p.vocab, p.dim, DType::fp32, threads)};
  for (int64_t other : others) product = other > product ? other : product;
  at.end = at.product + product;
  return at;
}

int64_t workspaceBytes(const LinearCrossEntropyParams& p, int threads) { return layoutOf(p, threads).end; }

struct RowSums {
  float maximum;
  double logits, exponentials;
};

// Replaces z by exp(z − max z). Sums of blocks of 4096 numbers are added in double: a vocabulary is long.
HADAL_INLINE RowSums exponentiate(float* z, int64_t count) {
  const int64_t whole = count / lanes * lanes, rest = count - whole;
  constexpr int64_t block = 4096;
  Vec largest = splat(-INFINITY);
  RowSums sums{-INFINITY, 0, 0};
  for (int64_t begin = 0; begin < whole; begin += block) {
    const int64_t end = begin + block < whole ? begin + block : whole;
    Vec total = {};
    for (int64_t j = begin; j < end; j += lanes) {
      const Vec v = load(z + j);
      largest = max(v, largest);
      total += v;
    }
    sums.logits += sum(total);
  }
  sums.maximum = maximum(largest);
  for (int64_t j = whole; j < count; j++) {
    sums.maximum = z[j] > sums.maximum ? z[j] : sums.maximum;
    sums.logits += z[j];
  }
  for (int64_t begin = 0; begin < whole; begin += block) {
    const int64_t end = begin + block < whole ? begin + block : whole;
    Vec total = {};
    for (int64_t j = begin; j < end; j += lanes) {
      const Vec e = exp(load(z + j) - sums.maximum);
      total += e;
      store(z + j, e);
    }
    sums.exponentials += sum(total);
  }
  if (rest) {
    const Vec e = exp(loadPart(z + whole, rest, -INFINITY) - sums.maximum);
    for (int64_t j = 0; j < rest; j++) sums.exponentials += e[j];
    storePart(z + whole, rest, e);
  }
  return sums;
}

// gradient = e · factor − offset, less `labelShare` at the label. May be in place.
template <class T>
HADAL_INLINE void writeGradient(const float* e, T* gradient, int64_t count, float factor, float offset, int64_t label,
                                float labelShare) {
  const T atLabel = fromFloat<T>(e[label] * factor - offset - labelShare);
  forLanes(count, [&](int64_t j, auto part) { store(gradient + j, part, load(e + j, part) * factor - offset); });
  gradient[label] = atLabel;
}

// Loss of one row; its logits are used up. `gradient` may be null, or the logits themselves.
template <class T>
HADAL_INLINE float finishRow(const LinearCrossEntropyParams& p, float* z, int64_t label, float scale, T* gradient) {
  if (label < 0) {
    if (gradient) std::memset(gradient, 0, static_cast<size_t>(p.vocab) * sizeof(T));
    return 0;
  }
  const double labelLogit = z[label], smoothing = p.labelSmoothing;
  const RowSums sums = exponentiate(z, p.vocab);
  const double lse = sums.maximum + std::log(sums.exponentials);
  if (gradient) {
    writeGradient(z, gradient, p.vocab, static_cast<float>(scale * (1 + 2 * p.zLoss * lse) / sums.exponentials),
                  static_cast<float>(scale * smoothing / p.vocab), label, static_cast<float>(scale * (1 - smoothing)));
  }
  // Without smoothing Σ z must not take part: −∞ · 0 is NaN.
  const double spread = smoothing > 0 ? smoothing / p.vocab * sums.logits : 0;
  return static_cast<float>(lse - (1 - smoothing) * labelLogit - spread + p.zLoss * lse * lse);
}

// The label, or −1 for a row without one.
HADAL_INLINE int64_t labelOf(const LinearCrossEntropyParams& p, int32_t label, int64_t row, RunContext& context) {
  if (label == p.ignoreIndex) return -1;
  if (label >= 0 && label < p.vocab) return label;
  context.fail("[linear-cross-entropy] expected labels in 0..%lld or %lld, got %d in row %lld",
               static_cast<long long>(p.vocab - 1), static_cast<long long>(p.ignoreIndex), label,
               static_cast<long long>(row));
  return -1;
}

void run(const LinearCrossEntropyParams& p, void* const* buffers, RunContext& context) {
  const char* hidden = static_cast<const char*>(buffers[0]);
  const int32_t* labels = static_cast<const int32_t*>(buffers[2]);
  const float scale = *static_cast<const float*>(buffers[3]);
  char* dhidden = static_cast<char*>(buffers[5]);
  void* dweight = buffers[6];
  float* losses = static_cast<float*>(buffers[7]);

  const Layout at = layoutOf(p, context.threads);
  char* workspace = static_cast<char*>(context.workspace);
  float* logits = reinterpret_cast<float*>(workspace + at.logits);
  float* chunkLosses = reinterpret_cast<float*>(workspace + at.losses);
  float* sums = p.dtypeW == DType::fp32 ? static_cast<float*>(dweight) : reinterpret_cast<float*>(workspace + at.sums);
  void* product = workspace + at.product;
  const bool wantsGradient = dhidden || dweight, narrow = hasBf16Products(p);
  void* const dlogits = narrow ? static_cast<void*>(workspace + at.gradient) : logits;
  const DType dtypeZ = narrow ? DType::bf16 : DType::fp32;
  const Factor weight{buffers[1], p.dim, false, p.dtypeW};
  const Factor weightTransposed{buffers[1], p.dim, true, p.dtypeW};

  double total = 0;
  const int64_t chunk = rowsAChunk(p);
  for (int64_t row = 0; row < p.rows; row += chunk) {
    const int64_t rows = p.rows - row < chunk ? p.rows - row : chunk;
    const int64_t offset = row * p.dim * bytesOf(p.dtypeH);
    const Factor input{hidden + offset, p.dim, false, p.dtypeH};
    runProduct(Product{rows, p.vocab, p.dim, input, weightTransposed, logits, p.vocab, DType::fp32, false},
               context.threads, product);
    parallelFor(rows, context.threads, 1 + 4096 / p.vocab, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t label = labelOf(p, labels[row + i], row + i, context);
        float* z = logits + i * p.vocab;
        chunkLosses[i] =
            narrow ? finishRow(p, z, label, scale, wantsGradient ? static_cast<Bf16*>(dlogits) + i * p.vocab : nullptr)
                   : finishRow(p, z, label, scale, wantsGradient ? z : nullptr);
      }
    });
    for (int64_t i = 0; i < rows; i++) {
      total += chunkLosses[i];
      if (losses) losses[row + i] = chunkLosses[i];
    }
    if (dhidden) {
      const Factor dz{dlogits, p.vocab, false, dtypeZ};
      runProduct(Product{rows, p.dim, p.vocab, dz, weight, dhidden + offset, p.dim, p.dtypeH, false}, context.threads,
                 product);
    }
    if (dweight) {
      const Factor dz{dlogits, p.vocab, true, dtypeZ};
      runProduct(Product{p.vocab, p.dim, rows, dz, input, sums, p.dim, DType::fp32, row > 0}, context.threads, product);
    }
  }
  *static_cast<float*>(buffers[4]) = static_cast<float>(scale * total);

  if (!dweight) return;
  if (p.rows == 0) {
    std::memset(dweight, 0, static_cast<size_t>(p.bytesWeight()));
  } else if (p.dtypeW != DType::fp32) {
    dispatch(p.dtypeW, [&](auto zero) {
      using T = decltype(zero);
      T* out = static_cast<T*>(dweight);
      parallelFor(p.vocab * p.dim, context.threads, 16384, [&](int64_t begin, int64_t end, int) {
        forLanes(end - begin,
                 [&](int64_t i, auto part) { store(out + begin + i, part, load(sums + begin + i, part)); });
      });
    });
  }
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(linearCrossEntropy, LinearCrossEntropyParams, run, workspaceBytes)

}  // namespace HADAL_ISA
}  // namespace hadal
