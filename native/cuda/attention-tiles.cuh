// What the kernels of attention share: what rows see, tiles of 16-bit numbers in shared memory, their products by tensor cores.
//
// A kv head's queries are rows (query, head of its group): a group shares the keys it reads, also when one token decodes.
#pragma once
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace flash_attention {

constexpr float log2e = 1.44269504088896341f, ln2 = 0.693147180559945309f;
// A score that is not seen, and the maximum of no scores: e^(lowest - unseen) is 0, e^(unseen - unseen) is 1.
constexpr float lowest = -3e38f, unseen = -1e30f;

// Keys [from, to).
struct alignas(8) Span {
  int32_t from, to;
};

// row / divisor for rows below 2^31: a multiplication, as rows of a tile are divided again and again.
struct Division {
  uint32_t factor, shift;

  static Division by(int64_t divisor) {
    uint32_t shift = 0;
    while ((int64_t{1} << shift) < divisor) shift++;
    return {static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + divisor - 1) / divisor), shift};
  }
  __device__ int of(int row) const {
    return static_cast<int>(__umulhi(2 * static_cast<uint32_t>(row), factor) >> shift);
  }
};

// AttentionParams in the numbers that device code works with, and the buffers that say what is seen.
struct Problem {
  int queries, keys, heads, kvHeads, group, rows;  // rows of one (batch, kv head)
  int keyDim, valueDim, valueStride;               // valueStride: from a token's value to the next kv head's
  bool isCausal;
  float scale;
  Division byGroup;
  const int32_t* docIds;
  const int32_t* start;
  const Span* runs;  // [batch][queries] with docIds and without start: a token's run of equal ids; {t, t} for padding t

  // Which vector of q and o a row is.
  __device__ int64_t vector(int batch, int kvHead, int row) const {
    const int64_t first = static_cast<int64_t>(batch) * queries * heads + static_cast<int64_t>(kvHead) * group;
    return first + static_cast<int64_t>(byGroup.of(row)) * (heads - group) + row;
  }
  // Which number of logsumexp it is.
  __device__ int64_t statistic(int batch, int kvHead, int row) const {
    const int query = byGroup.of(row), inGroup = row - query * group;
    return (static_cast<int64_t>(batch) * heads + static_cast<int64_t>(kvHead) * group + inGroup) * queries + query;
  }
  // Which vector of k and v a key is.
  __device__ int64_t keyVector(int batch, int kvHead, int key) const {
    return (static_cast<int64_t>(batch) * keys + key) * kvHeads + kvHead;
  }

  __device__ int cachedEnd(int batch, int query) const {
    const int64_t end = static_cast<int64_t>(start[batch]) + query + 1;
    return static_cast<int>(end < 0 ? 0 : end > keys ? keys : end);
  }
  // Behind the last key that may be read: those behind it are not written yet.
  __device__ int usedKeys(int batch) const { return start ? cachedEnd(batch, queries - 1) : keys; }
  __device__ Span sight(int batch, int row) const {
    const int query = byGroup.of(row);
    const int64_t token = static_cast<int64_t>(batch) * queries + query;
    if (start) return {0, docIds && docIds[token] < 0 ? 0 : cachedEnd(batch, query)};
    Span seen = runs ? runs[token] : Span{0, keys};
    if (isCausal) seen.to = min(seen.to, query + 1);
    seen.to = min(seen.to, keys);
    return seen;
  }
};

// Some row sees keys of [first, end); every row sees all keys of [commonFirst, commonEnd).
struct Bounds {
  int first, end, commonFirst, commonEnd;

  __device__ bool isSeen(int key, int count) const { return key < end && key + count > first; }
  __device__ bool isMasked(int key, int count) const { return key < commonFirst || key + count > commonEnd; }
};

// Of rows whose first and last see `a` and `z`. Both ends of sights grow with the row, but for padding in front of a cache.
__device__ __forceinline__ Bounds boundsOf(const Problem& p, Span a, Span z) {
  if (p.start && p.docIds) return {0, p.keys, p.keys, 0};
  return {a.from, z.to, z.from, a.to};
}
__device__ __forceinline__ Bounds boundsOf(const Problem& p, int batch, int firstRow, int lastRow) {
  Bounds bounds = boundsOf(p, p.sight(batch, firstRow), p.sight(batch, lastRow));
  if (p.start) bounds.end = p.cachedEnd(batch, p.byGroup.of(lastRow));
  return bounds;
}

// Rows that may see keys of [key, end).
struct Rows {
  int first, end;
};
__device__ __forceinline__ Rows rowsOf(const Problem& p, int batch, int key, int end) {
  int first = p.isCausal ? key : 0, last = p.queries;
  if (p.start) {
    const int64_t ahead = static_cast<int64_t>(key) - p.start[batch];
    first = static_cast<int>(ahead < 0 ? 0 : ahead > p.queries ? p.queries : ahead);
  } else if (p.runs && key < p.queries) {
    const Span* runs = p.runs + static_cast<int64_t>(batch) * p.queries;
    if (!p.isCausal) first = runs[key].from;
    last = runs[min(end, p.queries) - 1].to;
  }
  return {min(first, p.queries) * p.group, last * p.group};
}

// ---- Tiles of 16-bit numbers in shared memory: rows of `width` numbers, whose chunks of 16 bytes are permuted so that the
// same chunk of eight rows that follow each other lies in eight different sets of four banks, for ldmatrix, and so do eight
// chunks that follow each other, for the copies.

template <int width>
__device__ __forceinline__ int permuted(int row, int chunk) {
  static_assert(width == 32 || width % 64 == 0);
  // Rows of 64 bytes: two of them fill the banks once.
  return chunk ^ (width == 32 ? (row >> 1) & 3 : row & 7);
}

template <class T>
struct alignas(16) Chunk {
  T at[8];
};

// Copies `tileRows` rows of dim ≤ width numbers, zeros behind them. source(i) is where row i lies, null for a row of zeros.
// isVector: rows are aligned to 16 bytes. Eight threads copy 128 bytes of a row.
template <int width, int tileRows, int blockThreads, class T, class Source>
__device__ __forceinline__ void copyTile(T* tile, int dim, bool isVector, const T* someAddress, Source source) {
  constexpr int rowThreads = width < 64 ? width / 8 : 8, rowStep = blockThreads / rowThreads;
  static_assert(tileRows % rowStep == 0);
  const int firstRow = static_cast<int>(threadIdx.x) / rowThreads, chunk = static_cast<int>(threadIdx.x) % rowThreads;
  if (isVector) {
#pragma unroll
    for (int row = firstRow; row < firstRow + tileRows; row += rowStep) {
      const T* const from = source(row);
#pragma unroll
      for (int first = 0; first < width / 8; first += rowThreads) {
        const bool isWanted = from && (first + chunk) * 8 < dim;
        copyAsync16(tile + row * width + first * 8 + permuted<width>(row, chunk) * 8,
                    isWanted ? from + (first + chunk) * 8 : someAddress, isWanted);
      }
    }
    return;
  }
#pragma unroll 1
  for (int row = firstRow; row < firstRow + tileRows; row += rowStep) {
    const T* const from = source(row);
#pragma unroll 1
    for (int first = 0; first < width / 8; first += rowThreads) {
      Chunk<T> numbers{};
#pragma unroll
      for (int d = 0; d < 8; d++)
        if (from && (first + chunk) * 8 + d < dim) numbers.at[d] = from[(first + chunk) * 8 + d];
      *reinterpret_cast<Chunk<T>*>(tile + row * width + first * 8 + permuted<width>(row, chunk) * 8) = numbers;
    }
  }
}

// Where a lane reads a tile's matrices from. Lane `row` and chunk `odd` of two; chunks 2·step … are at[step % 4] and a constant,
// as are rows 8, 16, … further on. They are kept, and moved from one tile to the next: the compiler would otherwise keep a
// hundred sums of a tile's address and an offset.
template <int width>
struct Places {
  int at[4];

  __device__ Places(int row, int odd) {
#pragma unroll
    for (int i = 0; i < 4; i++) at[i] = row * width + permuted<width>(row, 2 * i % (width / 8) + odd) * 8;
  }
  // For left operands of m16n8k16, also for right ones whose depth is a tile's rows; for right ones whose depth is its columns.
  __device__ static Places ofRows() { return {laneId() % 16, laneId() / 16}; }
  __device__ static Places ofColumns() { return {laneId() / 16 * 8 + laneId() % 8, laneId() / 8 % 2}; }

  __device__ void move(int numbers) {
#pragma unroll
    for (int i = 0; i < 4; i++) at[i] += numbers;
  }
  template <class T>
  __device__ const T* in(const T* tile, int row, int step) const {
    return tile + at[step % 4] + (row * width + step / 4 * 64);
  }
};

// Right operands for 16 columns.
struct Right {
  uint32_t low[2], high[2];

  __device__ Right(const uint32_t (&r)[4]) : low{r[0], r[1]}, high{r[2], r[3]} {}
};
// The columns are rows row … row + 15 of the tile; depth is its numbers 16·step ….
template <int width, class T>
__device__ __forceinline__ Right loadRight(const T* tile, const Places<width>& columns, int row, int step) {
  uint32_t r[4];
  loadMatrices4(r, columns.in(tile, row, step));
  return r;
}
// The columns are numbers 16·step … of the tile; depth is its rows row … row + 15.
template <int width, class T>
__device__ __forceinline__ Right loadRightRows(const T* tile, const Places<width>& rows, int row, int step) {
  uint32_t r[4];
  loadMatrices4Transposed(r, rows.in(tile, row, step));
  return r;
}

// A warp's 16 × 8·n sums in registers: sums[i] are columns 8·i …, laid out as multiplyAdd says.
template <int n>
using Sums = float[n][4];

// c[16][8·n] += left · rightᵀ. left(a, step) loads rows' numbers 16·step …; right is a tile of 8·n rows.
template <int width, class T, int n, class Left>
__device__ __forceinline__ void addScores(Sums<n>& c, Left left, const T* right, const Places<width>& columns) {
#pragma unroll
  for (int step = 0; step < width / 16; step++) {
    uint32_t a[4];
    left(a, step);
#pragma unroll
    for (int i = 0; i < n; i += 2) {
      const Right b = loadRight(right, columns, i * 8, step);
      multiplyAdd<T>(c[i], a, b.low);
      multiplyAdd<T>(c[i + 1], a, b.high);
    }
  }
}

// c[16][width] += weights[16][8·n] · right, a tile of 8·n rows; weights are rounded to T.
template <int width, class T, int n>
__device__ __forceinline__ void addWeighted(Sums<width / 8>& c, const Sums<n>& weights, const T* right,
                                            const Places<width>& rows) {
#pragma unroll
  for (int i = 0; i < n; i += 2) {
    const uint32_t a[4] = {packPair<T>(weights[i][0], weights[i][1]), packPair<T>(weights[i][2], weights[i][3]),
                           packPair<T>(weights[i + 1][0], weights[i + 1][1]),
                           packPair<T>(weights[i + 1][2], weights[i + 1][3])};
#pragma unroll
    for (int step = 0; step < width / 16; step++) {
      const Right b = loadRightRows(right, rows, i * 8, step);
      multiplyAdd<T>(c[2 * step], a, b.low);
      multiplyAdd<T>(c[2 * step + 1], a, b.high);
    }
  }
}

// Numbers `column` and the next of a row of dim.
template <class T>
__device__ __forceinline__ void storePair(T* row, int column, int dim, float low, float high) {
  if (column + 1 < dim && dim % 2 == 0) {
    *reinterpret_cast<Pack<T, 2>*>(row + column) = {fromFloat<T>(low), fromFloat<T>(high)};
    return;
  }
  if (column < dim) row[column] = fromFloat<T>(low);
  if (column + 1 < dim) row[column + 1] = fromFloat<T>(high);
}

// ---- Sizes with tensor-core kernels: heads are padded with zeros to the next of them.

template <int keyWidth_, int valueWidth_>
struct Heads {
  static constexpr int keyWidth = keyWidth_, valueWidth = valueWidth_;
};

// Calls f with the narrowest of them; false where heads are wider than all.
template <class F>
bool withHeads(const Problem& p, F&& f) {
  const auto fit = [&](auto heads) {
    if (p.keyDim > heads.keyWidth || p.valueDim > heads.valueWidth) return false;
    f(heads);
    return true;
  };
  return fit(Heads<32, 32>{}) || fit(Heads<64, 64>{}) || fit(Heads<128, 128>{}) || fit(Heads<192, 128>{}) ||
         fit(Heads<256, 256>{});
}

// Four warps of 16 rows: tensor cores are fed from two such blocks a multiprocessor, and one warp's sums for heads of 128
// numbers are 64 registers.
constexpr int warps = 4, blockThreads = warps * warpSize, blockRows = warps * 16;

// Finds `runs`, where docIds need them, and checks that starts fit; in attention.cu.
void findSights(const Problem& p, int64_t batch, Span* runs, RunContext& context);

// Params are of a type that every source has for itself.
template <class P>
Problem problemOf(const P& params, const void* docIds, const void* start, Span* runs, RunContext& context) {
  if (params.queries * params.group() > INT32_MAX)
    context.fail("[attention] expected fewer than 2^31 queries of a kv head, got %lld",
                 static_cast<long long>(params.queries * params.group()));
  Problem p;
  p.queries = static_cast<int>(params.queries);
  p.keys = static_cast<int>(params.keys);
  p.heads = static_cast<int>(params.heads);
  p.kvHeads = static_cast<int>(params.kvHeads);
  p.group = static_cast<int>(params.group());
  p.rows = p.queries * p.group;
  p.keyDim = static_cast<int>(params.keyDim);
  p.valueDim = static_cast<int>(params.valueDim);
  p.valueStride = params.valueInKey ? p.keyDim : p.valueDim;
  p.isCausal = params.causal != 0;
  p.scale = static_cast<float>(params.scale);
  p.byGroup = Division::by(params.group() > 0 ? params.group() : 1);
  p.docIds = static_cast<const int32_t*>(docIds);
  p.start = static_cast<const int32_t*>(start);
  p.runs = docIds && !start ? runs : nullptr;
  return p;
}
constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
template <class P>
int64_t runBytes(const P& params) {
  return params.queries == params.keys ? aligned(params.batch * params.queries * static_cast<int64_t>(sizeof(Span)))
                                       : 0;
}

// explain() of both kernels.
template <class P>
void explainStart(const P& params, const Fault& fault, RunContext& context) {
  context.fail("[attention] expected start + %lld queries within a cache of %lld keys, got start %d",
               static_cast<long long>(fault.numbers[0]), static_cast<long long>(params.keys),
               static_cast<int>(fault.numbers[1]));
}

}  // namespace flash_attention
}  // namespace cuda
}  // namespace hadal
