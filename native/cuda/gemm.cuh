// Products of matrices as building blocks of kernels: a block of threads multiplies one tile, op(a)_MK · op(b)_KN, and the
// kernel decides which tile, from which memory, and what becomes of the sums.
//
//   using Tile = gemm::LargeTile;                                             // 128 × 128 numbers of c, by 128 threads
//   auto& s = shared<gemm::SharedOf<Tile>>();                                 // the launch's sharedBytes, alone or in a struct
//   gemm::Sums<Tile> sums;
//   gemm::multiply<Tile, Bf16, transposeA, transposeB>(s, {a, strideA}, {b, strideB}, {m, n, kBegin, kEnd}, row, column, sums);
//   sums.forEach([&](int i, int j, float& x, float& y) { … });                // c[row + i][column + j] and [column + j + 1]
//   gemm::store<Tile>(s, sums, {c, n, dtypeC}, {m, n, kBegin, kEnd}, row, column);   // or: plain c, or c = sums + addend
//
// - A factor is the address of op(x)'s element (0, 0) and the stride between the rows in which it is stored: element (i, j) lies
//   at data[i·stride + j], or at data[j·stride + i] where it is transposed. The kernel may compute addresses and sizes on the device
//   (groups of rows that begin at offsets[e]: data + offsets[e]·stride, m or kEnd = offsets[e + 1] − offsets[e]).
// - Numbers at rows ≥ m, columns ≥ n and terms outside [kBegin, kEnd) count as zeros and are not read. kBegin is a multiple of 8.
// - Any address and stride will do; copies are of 16 bytes where both allow it, else of single numbers, a good deal slower.
// - forEach may be called again and again, and its function may change the sums; i and j (even) are within the tile: it is for the
//   function to leave out rows ≥ m − row and columns ≥ n − column.
// - All threads of the block call multiply together; shared memory is free for other uses when it returns.
// - A number's bits depend on its terms and [kBegin, kEnd) alone, not on the tile: terms are added in their order, 16 at a time.
//
// multiplyFp32 and its store are the same in fp32 arithmetic (FMA, no tensor cores), for factors of any dtypes, told at run time.
#pragma once
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace gemm {

// Of op(a)·op(b): rows, columns, and the terms that are summed.
struct Sizes {
  int64_t m, n, kBegin, kEnd;
};

template <class T>
struct Factor {
  const T* data;
  int64_t stride;
};

// ---- 16-bit factors, on tensor cores

// A tile of c, cut among warps; `depth` terms at a time, `stages` of which are in shared memory: one is multiplied while the
// others are on their way.
template <int rowsOfTile, int columnsOfTile, int warpsDown, int warpsAcross, int depthOfStep, int stagesOfCopies>
struct Tile {
  static constexpr int rows = rowsOfTile, columns = columnsOfTile, depth = depthOfStep, stages = stagesOfCopies;
  static constexpr int threads = warpsDown * warpsAcross * warpSize;
  // For launch(): leaves the compiler as many registers as the sums ask for.
  static constexpr int blocksPerProcessor = rows * columns < 128 * 128 ? 3 : 2;
  static constexpr int across = warpsAcross;
  static constexpr int warpRows = rows / warpsDown, warpColumns = columns / warpsAcross;
  // Products of 16 × 8 that a warp sums.
  static constexpr int down = warpRows / 16, wide = warpColumns / 8;
  static_assert(warpRows % 16 == 0 && warpColumns % 16 == 0 && depth % 16 == 0 && stages >= 2);
};

// Warps of 64 × 64 read 4 KiB of shared memory (32 cycles) for 64 cycles of mma.sync a step of 16 terms; their 128 sums leave
// room for two blocks in the registers of a multiprocessor. 3 stages of 16 KiB: two blocks fit in the 100 KiB of sm_86, sm_89 and
// sm_120.
using LargeTile = Tile<128, 128, 2, 2, 32, 3>;
// For products that have too few large tiles to keep the multiprocessors busy: 3 stages of 16 KiB again, with twice the depth, so that a
// barrier comes as rarely.
using SmallTile = Tile<64, 64, 2, 2, 64, 3>;
// For few rows, as when tokens are decoded: reading b is all there is to do, with 4 stages of 18 KiB.
using FlatTile = Tile<16, 128, 1, 4, 64, 4>;

// A tile of a factor as it lies in shared memory: `rows` rows of `columns` numbers, the row being what is contiguous in global
// memory. Chunks of 16 bytes are permuted within a row so that the 8 rows of a matrix that ldmatrix reads at one column lie in
// different banks: rows shorter than 128 bytes share a line of all banks, and are permuted as the line.
template <class T, int rowsOfTile, int columnsOfTile>
struct alignas(128) SharedTile {
  static constexpr int rows = rowsOfTile, columns = columnsOfTile;
  static constexpr int chunk = 16 / sizeof(T), chunks = columns / chunk;
  static constexpr int rowsALine = chunks < 8 ? 8 / chunks : 1;
  static_assert((chunks & (chunks - 1)) == 0);
  T at[rows * columns];

  // `column` is a multiple of a chunk.
  __device__ __forceinline__ T* chunkAt(int row, int column) {
    const int place = (column / chunk) ^ (row / rowsALine % (chunks < 8 ? chunks : 8));
    return at + row * columns + place * chunk;
  }
};

template <class T, class Tile, bool transposeA, bool transposeB>
struct Stage {
  SharedTile<T, transposeA ? Tile::depth : Tile::rows, transposeA ? Tile::rows : Tile::depth> a;
  SharedTile<T, transposeB ? Tile::columns : Tile::depth, transposeB ? Tile::depth : Tile::columns> b;
};
// The same size for all transposes and both types.
template <class Tile>
struct alignas(128) SharedOf {
  unsigned char bytes[Tile::stages * (Tile::rows + Tile::columns) * Tile::depth * 2];
};

// Begins to copy a tile whose first number is data[row·stride + column]; what lies from rowEnd and columnEnd on becomes zeros.
template <int threads, class T, class Shared>
__device__ __forceinline__ void copyTile(Shared& to, const T* data, int64_t stride, bool isAligned, int64_t row,
                                         int64_t rowEnd, int64_t column, int64_t columnEnd) {
  constexpr int chunk = Shared::chunk, rowsAtATime = threads / Shared::chunks;
  // The permutation repeats every 8 rows: a thread's places are the same number of bytes apart.
  static_assert(threads % Shared::chunks == 0 && rowsAtATime % 8 == 0 && Shared::rows % rowsAtATime == 0);
  const int x = static_cast<int>(threadIdx.x) % Shared::chunks * chunk;
  const int y = static_cast<int>(threadIdx.x) / Shared::chunks;
  const int64_t columnsLeft = columnEnd - (column + x);
  const int rowsLeft = static_cast<int>(rowEnd - row < Shared::rows ? rowEnd - row : Shared::rows) - y;
  const T* from = data + (row + y) * stride + column + x;
  T* const place = to.chunkAt(y, x);
  if (isAligned && (columnsLeft >= chunk || columnsLeft <= 0)) {
    const int rowsWanted = columnsLeft > 0 ? rowsLeft : 0;
#pragma unroll
    for (int i = 0; i < Shared::rows; i += rowsAtATime) {
      copyAsync16(place + i * Shared::columns, i < rowsWanted ? from : data, i < rowsWanted);
      from += rowsAtATime * stride;
    }
  } else {
#pragma unroll 1
    for (int i = 0; i < Shared::rows; i += rowsAtATime) {
#pragma unroll
      for (int j = 0; j < chunk; j++) place[i * Shared::columns + j] = i < rowsLeft && j < columnsLeft ? from[j] : T{};
      from += rowsAtATime * stride;
    }
  }
}

// A warp's 16 × 16 of op(a), rows from `row` and terms from `k` on, as mma.sync takes it.
template <bool transposed, class Shared>
__device__ __forceinline__ void loadA(uint32_t (&r)[4], Shared& a, int row, int k) {
  const int lane = laneId(), low = lane % 8, middle = lane / 8 % 2 * 8, high = lane / 16 * 8;
  if constexpr (transposed) {
    loadMatrices4Transposed(r, a.chunkAt(k + low + high, row + middle));
  } else {
    loadMatrices4(r, a.chunkAt(row + low + middle, k + high));
  }
}
// A warp's 16 × 16 of op(b): r[0], r[1] are of its first 8 columns, r[2], r[3] of the others.
template <bool transposed, class Shared>
__device__ __forceinline__ void loadB(uint32_t (&r)[4], Shared& b, int k, int column) {
  const int lane = laneId(), low = lane % 8, middle = lane / 8 % 2 * 8, high = lane / 16 * 8;
  if constexpr (transposed) {
    loadMatrices4(r, b.chunkAt(column + low + high, k + middle));
  } else {
    loadMatrices4Transposed(r, b.chunkAt(k + low + middle, column + high));
  }
}

// What a thread holds of a tile of c.
template <class Tile>
struct Sums {
  float at[Tile::down][Tile::wide][4];

  // f(row, column, x, y): x is at (row, column) of the tile, y beside it.
  template <class F>
  __device__ __forceinline__ void forEach(F&& f) {
    const int row = warpId() / Tile::across * Tile::warpRows + laneId() / 4;
    const int column = warpId() % Tile::across * Tile::warpColumns + laneId() % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::down; i++) {
#pragma unroll
      for (int j = 0; j < Tile::wide; j++) {
        f(row + 16 * i, column + 8 * j, at[i][j][0], at[i][j][1]);
        f(row + 16 * i + 8, column + 8 * j, at[i][j][2], at[i][j][3]);
      }
    }
  }
};

template <class Tile, class T, bool transposeA, bool transposeB>
__device__ __forceinline__ void multiplyStep(Stage<T, Tile, transposeA, transposeB>& s, Sums<Tile>& sums) {
  const int row = warpId() / Tile::across * Tile::warpRows, column = warpId() % Tile::across * Tile::warpColumns;
#pragma unroll
  for (int k = 0; k < Tile::depth; k += 16) {
    uint32_t a[Tile::down][4], b[Tile::wide / 2][4];
#pragma unroll
    for (int i = 0; i < Tile::down; i++) loadA<transposeA>(a[i], s.a, row + 16 * i, k);
#pragma unroll
    for (int j = 0; j < Tile::wide / 2; j++) loadB<transposeB>(b[j], s.b, k, column + 16 * j);
#pragma unroll
    for (int i = 0; i < Tile::down; i++) {
#pragma unroll
      for (int j = 0; j < Tile::wide; j++) {
        const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
        multiplyAdd<T>(sums.at[i][j], a[i], pair);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ bool canCopyChunks(Factor<T> x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % (16 / static_cast<int64_t>(sizeof(T))) == 0;
}

// sums = the tile of op(a)·op(b) whose first number is (row, column) of c.
template <class Tile, class T, bool transposeA, bool transposeB>
__device__ __forceinline__ void multiply(SharedOf<Tile>& memory, Factor<T> a, Factor<T> b, Sizes sizes, int64_t row,
                                         int64_t column, Sums<Tile>& sums) {
  using Stage = gemm::Stage<T, Tile, transposeA, transposeB>;
  static_assert(sizeof(SharedOf<Tile>) == Tile::stages * sizeof(Stage));
  auto* const stages = reinterpret_cast<Stage*>(memory.bytes);
  const bool isAlignedA = canCopyChunks(a), isAlignedB = canCopyChunks(b);
#pragma unroll
  for (int i = 0; i < Tile::down; i++) {
#pragma unroll
    for (int j = 0; j < Tile::wide; j++) {
#pragma unroll
      for (int l = 0; l < 4; l++) sums.at[i][j][l] = 0;
    }
  }
  const int64_t terms = sizes.kEnd - sizes.kBegin;
  const int steps = static_cast<int>(terms <= 0 ? 0 : (terms + Tile::depth - 1) / Tile::depth);
  const auto copy = [&](int step) {
    if (step < steps) {
      Stage& to = stages[step % Tile::stages];
      const int64_t k = sizes.kBegin + static_cast<int64_t>(step) * Tile::depth;
      if constexpr (transposeA) {
        copyTile<Tile::threads>(to.a, a.data, a.stride, isAlignedA, k, sizes.kEnd, row, sizes.m);
      } else {
        copyTile<Tile::threads>(to.a, a.data, a.stride, isAlignedA, row, sizes.m, k, sizes.kEnd);
      }
      if constexpr (transposeB) {
        copyTile<Tile::threads>(to.b, b.data, b.stride, isAlignedB, column, sizes.n, k, sizes.kEnd);
      } else {
        copyTile<Tile::threads>(to.b, b.data, b.stride, isAlignedB, k, sizes.kEnd, column, sizes.n);
      }
    }
    commitCopies();  // empty groups, too: the number of those under way stays the same
  };
  for (int step = 0; step < Tile::stages - 1; step++) copy(step);
  for (int step = 0; step < steps; step++) {
    awaitCopies<Tile::stages - 2>();
    __syncthreads();
    copy(step + Tile::stages - 1);  // to where the step before this one was, which all warps have behind them
    multiplyStep(stages[step % Tile::stages], sums);
  }
  awaitCopies<0>();
  __syncthreads();
}

// ---- Where sums go

// c[row][column] lies at c[row·stride + column]; an addend, where there is one, at addend[row·addendStride + column] (stride 0:
// one row for all). The addend may be c itself.
struct Output {
  void* c;
  int64_t stride;
  DType dtypeC;
  const void* addend = nullptr;
  int64_t addendStride = 0;
  DType dtypeAddend = DType::fp32;
};

// Calls f with a number of the dtype's storage, on the device.
template <class F>
__device__ __forceinline__ void withType(DType dtype, F&& f) {
  if (dtype == DType::fp32) {
    f(float{});
  } else if (dtype == DType::bf16) {
    f(Bf16{});
  } else {
    f(F16{});
  }
}

// Four numbers of c side by side, of which `count` exist.
__device__ __forceinline__ void storeFour(const Output& out, int64_t row, int64_t column, int count, float (&x)[4]) {
  if (out.addend) {
    withType(out.dtypeAddend, [&](auto zero) {
      using T = decltype(zero);
      const T* from = static_cast<const T*>(out.addend) + row * out.addendStride + column;
      if (count >= 4 && reinterpret_cast<uintptr_t>(from) % sizeof(Pack<T, 4>) == 0) {
        const auto four = *reinterpret_cast<const Pack<T, 4>*>(from);
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] += toFloat(four.at[j]);
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] += j < count ? toFloat(from[j]) : 0.0f;
      }
    });
  }
  withType(out.dtypeC, [&](auto zero) {
    using T = decltype(zero);
    T* to = static_cast<T*>(out.c) + row * out.stride + column;
    if (count >= 4 && reinterpret_cast<uintptr_t>(to) % sizeof(Pack<T, 4>) == 0) {
      Pack<T, 4> four;
#pragma unroll
      for (int j = 0; j < 4; j++) four.at[j] = fromFloat<T>(x[j]);
      *reinterpret_cast<Pack<T, 4>*>(to) = four;
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (j < count) to[j] = fromFloat<T>(x[j]);
    }
  });
}
__device__ __forceinline__ int countOf(int64_t left) { return left < 4 ? static_cast<int>(left) : 4; }

// Sums of 16 rows of every warp, on their way from the order of mma.sync to whole rows. 8 floats between rows let the 4 rows that
// half a warp writes at once fall into different banks.
template <class Tile>
struct alignas(128) Band {
  static constexpr int rows = 16 * Tile::rows / Tile::warpRows;
  float at[rows][Tile::columns + 8];
};

// c (+ addend), its rows and columns within the sizes; by all threads of the block.
template <class Tile>
__device__ __forceinline__ void store(SharedOf<Tile>& memory, const Sums<Tile>& sums, const Output& out, Sizes sizes,
                                      int64_t row, int64_t column) {
  static_assert(sizeof(Band<Tile>) <= sizeof(SharedOf<Tile>));
  auto& band = *reinterpret_cast<Band<Tile>*>(memory.bytes);
  const int y = warpId() / Tile::across * 16 + laneId() / 4;
  const int x = warpId() % Tile::across * Tile::warpColumns + laneId() % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::down; i++) {
#pragma unroll
    for (int j = 0; j < Tile::wide; j++) {
      *reinterpret_cast<Pack<float, 2>*>(&band.at[y][x + 8 * j]) = {{sums.at[i][j][0], sums.at[i][j][1]}};
      *reinterpret_cast<Pack<float, 2>*>(&band.at[y + 8][x + 8 * j]) = {{sums.at[i][j][2], sums.at[i][j][3]}};
    }
    __syncthreads();
    for (int place = static_cast<int>(threadIdx.x); place < Band<Tile>::rows * Tile::columns / 4;
         place += Tile::threads) {
      const int down = place / (Tile::columns / 4), across = place % (Tile::columns / 4) * 4;
      const int64_t atRow = row + down / 16 * Tile::warpRows + 16 * i + down % 16, atColumn = column + across;
      if (atRow >= sizes.m || atColumn >= sizes.n) continue;
      const auto four = *reinterpret_cast<const Pack<float, 4>*>(&band.at[down][across]);
      float numbers[4] = {four.at[0], four.at[1], four.at[2], four.at[3]};
      storeFour(out, atRow, atColumn, countOf(sizes.n - atColumn), numbers);
    }
    __syncthreads();
  }
}

// ---- Factors of any dtypes, in fp32 arithmetic

// `isTransposed` and dtype are looked at when a tile is loaded, 8 numbers a thread at a time for 1024 multiplications.
struct AnyFactor {
  const void* data;
  int64_t stride;
  DType dtype;
  bool isTransposed;
};

// 16 × 16 threads, each with rows/16 × columns/16 numbers of c.
template <int rowsOfTile, int columnsOfTile>
struct TileFp32 {
  static constexpr int rows = rowsOfTile, columns = columnsOfTile, depth = 16, threads = 256;
  // For launch(): leaves the compiler 128 registers a thread.
  static constexpr int blocksPerProcessor = 2;
  static constexpr int down = rows / 16, wide = columns / 16;
  static_assert(down % 4 == 0 && wide % 4 == 0);
};
// 8 × 8 numbers a thread: 16 are read from shared memory for 64 multiplications. Two blocks a multiprocessor by registers.
using LargeTileFp32 = TileFp32<128, 128>;
// Four times as many blocks for products that would not keep the card busy.
using SmallTileFp32 = TileFp32<64, 64>;

// A step's terms of both factors, term by term. 4 floats between terms keep 16-byte alignment and make the stores of a
// k-contiguous factor (8 terms × 4 rows a warp) fall into different banks.
template <class Tile>
struct alignas(128) SharedFp32 {
  float a[2][Tile::depth][Tile::rows + 4];
  float b[2][Tile::depth][Tile::columns + 4];
};

template <class Tile>
struct SumsFp32 {
  float at[Tile::down][Tile::wide];

  // Rows and columns are held in runs of 4 side by side, 64 apart: threads of a warp then read neighbouring floats.
  static __device__ __forceinline__ int placeOf(int i, int thread) { return i / 4 * 64 + thread * 4 + i % 4; }

  template <class F>
  __device__ __forceinline__ void forEach(F&& f) {
    const int down = static_cast<int>(threadIdx.x) / 16, across = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < Tile::down; i++) {
#pragma unroll
      for (int j = 0; j < Tile::wide; j += 2) f(placeOf(i, down), placeOf(j, across), at[i][j], at[i][j + 1]);
    }
  }
};

// Which numbers of `span` rows of op(a), or columns of op(b), by 16 terms a thread brings: along the factor's contiguous dimension, so
// that a warp reads 8 terms (a sector) of 4 rows, or 32 neighbours of one term.
template <int span>
struct Share {
  static constexpr int termsAtATime = 256 / span;
  int at, term;
  bool isTermContiguous;
  __device__ __forceinline__ explicit Share(bool isTermContiguous) : isTermContiguous(isTermContiguous) {
    const int thread = static_cast<int>(threadIdx.x);
    at = isTermContiguous ? thread / 8 : thread % span;
    term = isTermContiguous ? thread % 8 : thread / span;
  }
};

template <int span>
__device__ __forceinline__ void loadFp32(float (&x)[span / 16], const Share<span>& share, AnyFactor from, int64_t first,
                                         int64_t end, int64_t k, int64_t kEnd) {
  const int left = static_cast<int>(end - first < span ? end - first : span) - share.at;
  const int termsLeft = static_cast<int>(kEnd - k < 16 ? kEnd - k : 16) - share.term;
  withType(from.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t at = first + share.at, term = k + share.term;
    const T* data = static_cast<const T*>(from.data);
    if (share.isTermContiguous) {
      data += at * from.stride + term;
#pragma unroll
      for (int i = 0; i < span / 16; i += 2) {
        x[i] = 16 * i < left && 0 < termsLeft ? toFloat(data[0]) : 0.0f;
        x[i + 1] = 16 * i < left && 8 < termsLeft ? toFloat(data[8]) : 0.0f;
        data += 32 * from.stride;
      }
    } else {
      data += term * from.stride + at;
#pragma unroll
      for (int i = 0; i < span / 16; i++) {
        x[i] = 0 < left && i * share.termsAtATime < termsLeft ? toFloat(data[0]) : 0.0f;
        data += share.termsAtATime * from.stride;
      }
    }
  });
}
template <int span>
__device__ __forceinline__ void storeFp32(const float (&x)[span / 16], const Share<span>& share,
                                          float (*to)[span + 4]) {
  float* const place = &to[share.term][share.at];
  if (share.isTermContiguous) {
#pragma unroll
    for (int i = 0; i < span / 16; i++) place[i % 2 * 8 * (span + 4) + i / 2 * 32] = x[i];
  } else {
#pragma unroll
    for (int i = 0; i < span / 16; i++) place[i * share.termsAtATime * (span + 4)] = x[i];
  }
}

template <class Tile>
__device__ __forceinline__ void multiplyFp32(SharedFp32<Tile>& s, AnyFactor a, AnyFactor b, Sizes sizes, int64_t row,
                                             int64_t column, SumsFp32<Tile>& sums) {
  const int down = static_cast<int>(threadIdx.x) / 16, across = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
  for (int i = 0; i < Tile::down; i++) {
#pragma unroll
    for (int j = 0; j < Tile::wide; j++) sums.at[i][j] = 0;
  }
  const Share<Tile::rows> shareA(!a.isTransposed);
  const Share<Tile::columns> shareB(b.isTransposed);
  float nextA[Tile::rows / 16], nextB[Tile::columns / 16];
  const auto load = [&](int64_t k) {
    loadFp32(nextA, shareA, a, row, sizes.m, k, sizes.kEnd);
    loadFp32(nextB, shareB, b, column, sizes.n, k, sizes.kEnd);
  };
  const auto store = [&](int buffer) {
    storeFp32(nextA, shareA, s.a[buffer]);
    storeFp32(nextB, shareB, s.b[buffer]);
    __syncthreads();
  };
  if (sizes.kBegin < sizes.kEnd) {
    load(sizes.kBegin);
    store(0);
  }
  int buffer = 0;
  for (int64_t k = sizes.kBegin; k < sizes.kEnd; k += Tile::depth) {
    const bool isLast = k + Tile::depth >= sizes.kEnd;
    if (!isLast) load(k + Tile::depth);
#pragma unroll
    for (int term = 0; term < Tile::depth; term++) {
      float x[Tile::down], y[Tile::wide];
#pragma unroll
      for (int i = 0; i < Tile::down; i += 4)
        *reinterpret_cast<Pack<float, 4>*>(x + i) =
            *reinterpret_cast<const Pack<float, 4>*>(&s.a[buffer][term][SumsFp32<Tile>::placeOf(i, down)]);
#pragma unroll
      for (int j = 0; j < Tile::wide; j += 4)
        *reinterpret_cast<Pack<float, 4>*>(y + j) =
            *reinterpret_cast<const Pack<float, 4>*>(&s.b[buffer][term][SumsFp32<Tile>::placeOf(j, across)]);
#pragma unroll
      for (int i = 0; i < Tile::down; i++) {
#pragma unroll
        for (int j = 0; j < Tile::wide; j++) sums.at[i][j] = fmaf(x[i], y[j], sums.at[i][j]);
      }
    }
    buffer = 1 - buffer;
    if (!isLast) store(buffer);
  }
  __syncthreads();
}

template <class Tile>
__device__ __forceinline__ void store(SharedFp32<Tile>&, const SumsFp32<Tile>& sums, const Output& out, Sizes sizes,
                                      int64_t row, int64_t column) {
  const int down = static_cast<int>(threadIdx.x) / 16, across = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
  for (int i = 0; i < Tile::down; i++) {
#pragma unroll
    for (int j = 0; j < Tile::wide; j += 4) {
      const int64_t atRow = row + sums.placeOf(i, down), atColumn = column + sums.placeOf(j, across);
      if (atRow >= sizes.m || atColumn >= sizes.n) continue;
      float numbers[4] = {sums.at[i][j], sums.at[i][j + 1], sums.at[i][j + 2], sums.at[i][j + 3]};
      storeFour(out, atRow, atColumn, countOf(sizes.n - atColumn), numbers);
    }
  }
}

// ---- Which tile a block takes

// Tiles of c in an order in which blocks that run at the same time share rows of a and columns of b in the second-level cache:
// bands of 8 tiles down, walked column by column.
struct TilePlace {
  int64_t down, across;
};
__device__ __forceinline__ TilePlace tilePlace(int64_t block, int64_t tilesDown, int64_t tilesAcross) {
  constexpr int64_t band = 8;
  const int64_t first = block / (band * tilesAcross) * band;
  const int64_t height = tilesDown - first < band ? tilesDown - first : band;
  const int64_t within = block - first * tilesAcross;
  return {first + within % height, within / height};
}

}  // namespace gemm
}  // namespace cuda
}  // namespace hadal
