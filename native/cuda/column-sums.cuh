// Gradients of a norm's weights: sums over all rows of what each row gives for a column, in the same order on every GPU. A
// block takes a share of the rows and sums them in shared memory, each thread the columns of its packs; then the shares are
// added in order.
#pragma once
#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {

// How rows are shared out. `partials` [share][list][D] fp32, a list for each gradient.
struct RowShares {
  int64_t count = 0, rows = 0;  // shares, and rows of one
  int lists = 0;
  float* partials = nullptr;
  size_t sharedBytes = 0;  // 0 where columns are too many: sums are in `partials` all the time then

  // At most 256, which fill today's greatest GPUs with two blocks a multiprocessor; of eight rows or more, so that writing
  // and reading their sums is a small part of all bytes.
  static int64_t countOf(int64_t rows) {
    const int64_t shares = (rows + 7) / 8;
    return shares < 256 ? shares : 256;
  }
  static int64_t workspaceBytes(int64_t rows, int64_t dim, int lists) { return countOf(rows) * lists * dim * 4; }

  // The sums of all warps that take rows of up to 2 KB, for two gradients: `partials` have room for those of one group, and
  // others would add to them at the same time. Every card gives a block so much, most of them two.
  static constexpr int64_t mostShared = 64 * 1024;

  // For packs of n numbers.
  static RowShares of(int64_t rows, int64_t dim, int lists, int n, int rowThreads, void* workspace) {
    const int64_t count = countOf(rows);
    RowShares shares{count, count ? (rows + count - 1) / count : 0, lists, static_cast<float*>(workspace), 0};
    const int64_t needed = threads / rowThreads * lists * ((dim + n - 1) / n) * n * 4;
    if (needed <= mostShared) shares.sharedBytes = static_cast<size_t>(needed);
    return shares;
  }
  // Σ of list `list` over shares; D numbers of dtype.
  void total(RunContext& context, int64_t dim, int list, void* out, DType dtype) const;
};

// A block's sums. Groups of rowThreads threads take rows of the share in turn, each with sums of its own.
template <int lists, int n>
class ColumnSums {
 public:
  // `memory`: as much shared memory as RowShares says.
  __device__ __forceinline__ ColumnSums(const RowShares& shares, int64_t dim, int rowThreads, void* memory)
      : dim_(dim),
        packs_((dim + n - 1) / n),
        firstRow_(blockIdx.x * shares.rows),
        endOfRows_(firstRow_ + shares.rows),
        group_(static_cast<int>(threadIdx.x) / rowThreads),
        groups_(threads / rowThreads),
        sums_(shares.sharedBytes > 0 ? static_cast<Quad*>(memory) : nullptr),
        partial_(shares.partials + static_cast<int64_t>(blockIdx.x) * lists * dim) {
    if (sums_) {
      for (int64_t i = threadIdx.x; i < groups_ * lists * quads * packs_; i += threads) sums_[i] = Quad{};
    } else {
      for (int64_t i = threadIdx.x; i < lists * dim; i += threads) partial_[i] = 0;
    }
    __syncthreads();
  }
  __device__ __forceinline__ int64_t firstRow() const { return firstRow_ + group_; }
  __device__ __forceinline__ int64_t endOfRows(int64_t rows) const { return endOfRows_ < rows ? endOfRows_ : rows; }

  // Adds x to columns i … i + n − 1, which are the thread's own.
  __device__ __forceinline__ void add(int list, int64_t i, const float (&x)[n]) {
    if (sums_) {
#pragma unroll
      for (int q = 0; q < quads; q++) {
        Quad& quad = sums_[quadAt(group_, list, q) + i / n];
        Quad sum = quad;
#pragma unroll
        for (int j = 0; j < 4; j++) sum.at[j] += x[4 * q + j];
        quad = sum;
      }
    } else {
#pragma unroll
      for (int j = 0; j < n; j++)
        if (i + j < dim_) partial_[list * dim_ + i + j] += x[j];
    }
  }
  // To the workspace, the groups' sums added in order.
  __device__ __forceinline__ void finish() {
    if (!sums_) return;
    __syncthreads();
#pragma unroll
    for (int list = 0; list < lists; list++)
      for (int64_t i = threadIdx.x; i < dim_; i += threads) {
        float total = 0;
        for (int group = 0; group < groups_; group++)
          total += sums_[quadAt(group, list, static_cast<int>(i % n) / 4) + i / n].at[i % 4];
        partial_[list * dim_ + i] = total;
      }
  }

 private:
  // A pack's quads lie apart: lanes, which have neighbouring packs, then read and write neighbouring 16 bytes, free of bank
  // conflicts.
  using Quad = Pack<float, 4>;
  static constexpr int quads = n / 4;
  static_assert(n % 4 == 0);
  static_assert(threads / warpSize * lists * (warpRowBytes / 16 * n) * 4 <= RowShares::mostShared);
  __device__ __forceinline__ int64_t quadAt(int group, int list, int quad) const {
    return ((group * lists + list) * quads + quad) * packs_;
  }

  int64_t dim_, packs_, firstRow_, endOfRows_;
  int group_, groups_;
  Quad* sums_;
  float* partial_;
};

// out_D = Σ_shares partials, in order. A block takes 32 columns; its warps take every eighth share, so that loads of eight shares
// are under way at once.
struct TotalShared {
  float sums[threads / warpSize][warpSize];
};
__device__ inline void totalShares(RowShares shares, int64_t dim, int list, void* out, DType dtype) {
  auto& s = shared<TotalShared>();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * warpSize + laneId();
  float total[1] = {0};
  if (column < dim) {
#pragma unroll 4
    for (int64_t share = warpId(); share < shares.count; share += threads / warpSize)
      total[0] += shares.partials[(share * shares.lists + list) * dim + column];
  }
  s.sums[warpId()][laneId()] = total[0];
  __syncthreads();
  if (warpId() != 0 || column >= dim) return;
  for (int w = 1; w < threads / warpSize; w++) total[0] += s.sums[w][laneId()];
  storeNumbers(out, dtype, column, 1, false, total);
}

inline void RowShares::total(RunContext& context, int64_t dim, int list, void* out, DType dtype) const {
  launch<totalShares, threads>(context, {.x = blocksFor(dim, warpSize), .sharedBytes = sizeof(TotalShared)}, *this, dim,
                               list, out, dtype);
}

}  // namespace cuda
}  // namespace hadal
