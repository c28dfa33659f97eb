// c_MN = op(a)_MK · op(b)_KN (+ addend), a and b bf16, c and the addend of any float dtype; sums in fp32 registers.
// Pairs of terms, [k][k + 1], are multiplied at once (dotPairs). b is packed into panels of pairs, two vectors wide; rows of an
// untransposed a are read where they lie, those of a transposed one are packed. A tile of c is finished in registers: a row or
// a matrix is added and the sum is converted as it is written.
// Bytes: reads M·K + K·N + addend, writes M·N; each thread packs the rows and columns of its own rectangle of c.
#include "cpu/bf16-product.h"

#include <type_traits>

#include "cpu/matmul.h"
#include "cpu/product-parts.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Register tile: 24 sums, two vectors of b and one pair of a, of 32 registers. A machine loads two vectors a cycle at best,
// and multiplies two: a step of 14 loads and 24 products waits for neither.
constexpr int tileRows = 12;
constexpr int tileColumns = 2 * lanes;
static_assert(!hasPairProducts || tileRows <= lanes);  // a vector holds a pair of each row

// Depth of a block, in pairs. All of up to 4096 terms are summed in registers where rows of a are read in place. Packed rows
// (weight gradients, over all tokens) are better off with a panel of b and a tile of a that fit in a first-level cache of
// 48 KiB (32 + 12 KiB); fp32 sums in c between the blocks cost less than that wins (measured).
constexpr int64_t deepPairs = 2048, shallowPairs = 256;
// Panels of b: 512 KiB, half of a second-level cache of 1 MiB.
constexpr int64_t panelsPairs = int64_t{128} << 10;
// Tiles of a that are packed together: 192 numbers of a row, whole cache lines, are used at once.
constexpr int64_t tilesAtOnce = 16;
constexpr int64_t packedPairs = tilesAtOnce * tileRows * shallowPairs;
static_assert(packedPairs >= tileRows * deepPairs);
// Rows of a that are fetched ahead of their packing; the next one is often in another page.
constexpr int64_t rowsAhead = 16;

struct Workspace {
  uint32_t panels[panelsPairs];
  uint32_t tiles[packedPairs];
  float sums[tileRows * tileColumns];
};

typedef uint16_t WideHVec __attribute__((vector_size(lanes * 4)));
typedef uint16_t NarrowHVec __attribute__((vector_size(lanes * 2)));

template <class V>
HADAL_INLINE V loadBits(const Bf16* p, int64_t count) {
  V x{};
  constexpr int64_t whole = sizeof(V) / 2;
  if (count >= whole)
    std::memcpy(&x, p, sizeof(V));
  else
    for (int64_t i = 0; i < count; i++) x[i] = p[i].bits;
  return x;
}
HADAL_INLINE void storePairs(uint32_t* p, UVec x) { std::memcpy(p, &x, sizeof(x)); }
HADAL_INLINE UVec loadPairs(const uint32_t* p) { return *reinterpret_cast<const UVec*>(p); }

template <int first, class V, int... i>
HADAL_INLINE UVec pairUp(V low, V high, std::integer_sequence<int, i...>) {
  return (UVec)__builtin_shufflevector(low, high, (first + i / 2 + i % 2 * static_cast<int>(sizeof(V) / 2))...);
}
// Numbers of two rows as pairs, from number `first` on.
template <int first, class V>
HADAL_INLINE UVec pairUp(V low, V high) {
  return pairUp<first>(low, high, std::make_integer_sequence<int, 2 * lanes>{});
}

// ---- Packing. What lies beyond the factor is zero.

// A panel of an untransposed b: to[pair][column].
HADAL_INLINE void packPanel(const Bf16* from, int64_t stride, int64_t depth, int64_t columns, uint32_t* to) {
  const auto row = [&](int64_t k, int64_t count) {
    const WideHVec low = loadBits<WideHVec>(from + k * stride, count);
    const WideHVec high = k + 1 < depth ? loadBits<WideHVec>(from + (k + 1) * stride, count) : WideHVec{};
    storePairs(to + k / 2 * tileColumns, pairUp<0>(low, high));
    storePairs(to + k / 2 * tileColumns + lanes, pairUp<lanes>(low, high));
  };
  if (columns >= tileColumns)
    for (int64_t k = 0; k < depth; k += 2) row(k, tileColumns);
  else
    for (int64_t k = 0; k < depth; k += 2) row(k, columns);
}

// A panel of a transposed b: pairs lie side by side in its rows, lanes × lanes of them are transposed at a time.
HADAL_INLINE void packPanelTransposed(const Bf16* from, int64_t stride, int64_t depth, int64_t columns, uint32_t* to) {
  const auto block = [&](int64_t k, int64_t j, int64_t count, int64_t left) {
    Vec x[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++)
      x[i] = i < count ? (Vec)loadBits<WideHVec>(from + (j + i) * stride + k, left) : Vec{};
    transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++)
      if (2 * i < left) storePairs(to + (k / 2 + i) * tileColumns + j, (UVec)x[i]);
  };
  for (int64_t j = 0; j < tileColumns; j += lanes) {
    int64_t k = 0;
    if (columns - j >= lanes)
      for (; k + 2 * lanes <= depth; k += 2 * lanes) block(k, j, lanes, 2 * lanes);
    for (; k < depth; k += 2 * lanes) block(k, j, columns - j, depth - k);
  }
}

// Tiles of a transposed a: to[tile][pair][row].
HADAL_INLINE void packTiles(const Bf16* from, int64_t stride, int64_t depth, int64_t rows, uint32_t* to) {
  const int64_t tilePairs = (depth + 1) / 2 * tileRows;
  for (int64_t k = 0; k < depth; k += 2) {
    const Bf16 *low = from + k * stride, *high = low + stride;
    const bool hasHigh = k + 1 < depth;
    for (int64_t i = 0; i < rows; i += 2 * lanes) {
      __builtin_prefetch(low + rowsAhead * stride + i);
      __builtin_prefetch(high + rowsAhead * stride + i);
    }
    for (int64_t i = 0; i < rows; i += tileRows) {
      const NarrowHVec first = loadBits<NarrowHVec>(low + i, rows - i);
      const NarrowHVec second = hasHigh ? loadBits<NarrowHVec>(high + i, rows - i) : NarrowHVec{};
      const UVec pairs = pairUp<0>(first, second);
      std::memcpy(to + i / tileRows * tilePairs + k / 2 * tileRows, &pairs, tileRows * 4);
    }
  }
}

// A tile of an untransposed a that cannot be read in place: to[row][pair].
HADAL_INLINE void copyTile(const Bf16* from, int64_t stride, int64_t depth, int64_t rows, uint32_t* to) {
  const int64_t pairs = (depth + 1) / 2;
  std::memset(to, 0, static_cast<size_t>(tileRows * pairs * 4));
  for (int64_t i = 0; i < rows; i++) std::memcpy(to + i * pairs, from + i * stride, static_cast<size_t>(depth * 2));
}

// ---- Multiplying

// Rows of a tile of a: as they lie in memory, `stride` bytes apart, or packed, [pair][row].
struct TileRows {
  const char* data;
  int64_t stride;
};

HADAL_INLINE UVec splatPair(const char* p) {
  uint32_t pair;
  std::memcpy(&pair, p, 4);
  return UVec{} + pair;
}

// sums = a · b. Rows in place are addressed from every third one, which leaves registers for nothing else to be spilled.
template <int rows, bool isPacked>
HADAL_INLINE void multiplyTile(TileRows a, const uint32_t* b, int64_t pairs, Vec (&sums)[rows][2]) {
  Vec total[rows][2] = {};
  const char* every[4] = {a.data, a.data + 3 * a.stride, a.data + 6 * a.stride, a.data + 9 * a.stride};
  for (int64_t pair = 0; pair < pairs; pair++) {
    const UVec left = loadPairs(b), right = loadPairs(b + lanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const UVec x = splatPair(isPacked ? a.data + i * 4 : every[i / 3] + i % 3 * a.stride);
      total[i][0] = dotPairs(total[i][0], x, left);
      total[i][1] = dotPairs(total[i][1], x, right);
    }
    b += tileColumns;
    a.data += tileRows * 4;
    for (const char*& at : every) at += 4;
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) {
    sums[i][0] = total[i][0];
    sums[i][1] = total[i][1];
  }
}

struct Nothing {};

// A whole tile: c = sums + addend.
template <class C, class D>
HADAL_INLINE void storeTile(const Vec (&sums)[tileRows][2], C* c, int64_t strideC, const D* addend,
                            int64_t strideAddend) {
#pragma GCC unroll 16
  for (int i = 0; i < tileRows; i++) {
    Vec left = sums[i][0], right = sums[i][1];
    if constexpr (!std::is_same_v<D, Nothing>) {
      left += load(addend + i * strideAddend);
      right += load(addend + i * strideAddend + lanes);
    }
    store(c + i * strideC, left);
    store(c + i * strideC + lanes, right);
  }
}

// The rest: a tile at an edge, or of dtypes that are seldom met. Up to `most` rows.
template <int most, bool isPacked>
HADAL_INLINE void multiplyPartly(const Product& p, TileRows a, const uint32_t* panel, int64_t pairs, int64_t i,
                                 int64_t j, int64_t rows, int64_t columns, float* to) {
  Vec sums[most][2];
  multiplyTile<most, isPacked>(a, panel, pairs, sums);
  for (int row = 0; row < most; row++) {
    store(to + row * tileColumns, sums[row][0]);
    store(to + row * tileColumns + lanes, sums[row][1]);
  }
  storeBlock(to, tileColumns, p, i, j, rows, columns);
}

// The columns [begin, end) of a tile of `rows` rows, whose panels have been packed.
template <bool isPacked, class C, class D>
HADAL_INLINE void multiplyRow(const Product& p, TileRows a, int64_t i, int64_t rows, int64_t begin, int64_t end,
                              int64_t pairs, Workspace& workspace) {
  const Addend addend = addendOf(p);
  constexpr bool isPlain = !std::is_same_v<C, Nothing>;
  const uint32_t* panel = workspace.panels;
  for (int64_t j = begin; j < end; j += tileColumns, panel += pairs * tileColumns) {
    const int64_t columns = end - j < tileColumns ? end - j : tileColumns;
    if (isPlain && rows == tileRows && columns == tileColumns) {
      if constexpr (isPlain) {
        C* c = static_cast<C*>(p.c) + i * p.strideC + j;
        for (int row = 0; row < tileRows; row++)  // fetched while the tile is multiplied
          for (int64_t at = 0; at < tileColumns; at += 64 / sizeof(C)) __builtin_prefetch(c + row * p.strideC + at, 1);
        Vec sums[tileRows][2];
        multiplyTile<tileRows, isPacked>(a, panel, pairs, sums);
        storeTile(sums, c, p.strideC, static_cast<const D*>(addend.data) + i * addend.stride + j, addend.stride);
      }
    } else if (rows > 8) {
      multiplyPartly<tileRows, isPacked>(p, a, panel, pairs, i, j, rows, columns, workspace.sums);
    } else if (rows > 4) {
      multiplyPartly<8, isPacked>(p, a, panel, pairs, i, j, rows, columns, workspace.sums);
    } else {
      multiplyPartly<4, isPacked>(p, a, panel, pairs, i, j, rows, columns, workspace.sums);
    }
  }
}

// Calls body(C, D) with the storage types of c and of the addend (or Nothing); with two Nothings for those seldom met.
template <class Body>
HADAL_INLINE void dispatchEnding(const Product& p, Body&& body) {
  const Addend addend = addendOf(p);
  const auto withAddend = [&](auto c) {
    if (!addend.data) return body(c, Nothing{});
    if (addend.dtype == DType::fp32) return body(c, float{});
    if (addend.dtype == DType::bf16) return body(c, Bf16{});
    body(Nothing{}, Nothing{});
  };
  if (p.dtypeC == DType::fp32) return withAddend(float{});
  if (p.dtypeC == DType::bf16) return withAddend(Bf16{});
  body(Nothing{}, Nothing{});
}

// A block of terms, over the columns [begin, end) and the rows [rowBegin, rowEnd).
template <class C, class D>
void multiplyBlock(const Product& p, int64_t rowBegin, int64_t rowEnd, int64_t begin, int64_t end,
                   Workspace& workspace) {
  const int64_t pairs = (p.k + 1) / 2;
  uint32_t* panel = workspace.panels;
  for (int64_t j = begin; j < end; j += tileColumns, panel += pairs * tileColumns) {
    const Bf16* from = static_cast<const Bf16*>(elementOf(p.b, 0, j));
    if (p.b.transposed)
      packPanelTransposed(from, p.b.stride, p.k, end - j, panel);
    else
      packPanel(from, p.b.stride, p.k, end - j, panel);
  }
  const int64_t fitting = packedPairs / (pairs * tileRows), tiles = fitting < tilesAtOnce ? fitting : tilesAtOnce;
  const uint32_t* tile = workspace.tiles;
  for (int64_t i = rowBegin; i < rowEnd; i += tileRows) {
    const int64_t left = rowEnd - i, rows = left < tileRows ? left : tileRows;
    const Bf16* from = static_cast<const Bf16*>(elementOf(p.a, i, 0));
    if (p.a.transposed) {
      const int64_t at = (i - rowBegin) / tileRows % tiles;
      if (at == 0) packTiles(from, p.a.stride, p.k, left < tiles * tileRows ? left : tiles * tileRows, workspace.tiles);
      const TileRows a{reinterpret_cast<const char*>(tile + at * pairs * tileRows), 0};
      multiplyRow<true, C, D>(p, a, i, rows, begin, end, pairs, workspace);
      continue;
    }
    TileRows a{reinterpret_cast<const char*>(from), p.a.stride * 2};
    if (rows < tileRows || p.k % 2 != 0) {
      copyTile(from, p.a.stride, p.k, rows, workspace.tiles);
      a = {reinterpret_cast<const char*>(workspace.tiles), pairs * 4};
    }
    multiplyRow<false, C, D>(p, a, i, rows, begin, end, pairs, workspace);
  }
}

// One rectangle of c, by one thread.
HADAL_INLINE void multiplyRectangle(const Product& p, int64_t rowBegin, int64_t rowEnd, int64_t columnBegin,
                                    int64_t columnEnd, Workspace& workspace) {
  const int64_t most = p.a.transposed && p.dtypeC == DType::fp32 ? shallowPairs : deepPairs;
  const int64_t pairs = (p.k + 1) / 2, blocks = (pairs + most - 1) / most, step = (pairs + blocks - 1) / blocks;
  const int64_t columns = panelsPairs / (step * tileColumns) * tileColumns;
  for (int64_t j = columnBegin; j < columnEnd; j += columns) {
    const int64_t end = columnEnd - j < columns ? columnEnd : j + columns;
    for (int64_t k = 0; k < p.k; k += 2 * step) {
      Product block = p;
      block.k = p.k - k < 2 * step ? p.k - k : 2 * step;
      block.a.data = elementOf(p.a, 0, k);
      block.b.data = elementOf(p.b, k, 0);
      block.accumulate = p.accumulate || k > 0;
      dispatchEnding(block, [&](auto c, auto addend) {
        multiplyBlock<decltype(c), decltype(addend)>(block, rowBegin, rowEnd, j, end, workspace);
      });
    }
  }
}

}  // namespace

bool bf16ProductTakes(const Product& p) {
  if (!hasPairProducts || p.a.dtype != DType::bf16 || p.b.dtype != DType::bf16) return false;
  return p.k > 0 && (p.dtypeC == DType::fp32 || p.k <= 2 * deepPairs);  // sums of blocks are fp32
}

int64_t bf16ProductWorkspace() { return hasPairProducts ? sizeof(Workspace) : 0; }

void bf16Product(const Product& p, int threads, void* workspace) {
  if constexpr (hasPairProducts)
    forEachRectangle(p.m, p.n, tileRows, tileColumns, threads,
                     [&](int64_t rowBegin, int64_t rowEnd, int64_t columnBegin, int64_t columnEnd, int thread) {
                       multiplyRectangle(p, rowBegin, rowEnd, columnBegin, columnEnd,
                                         static_cast<Workspace*>(workspace)[thread]);
                     });
}

}  // namespace HADAL_ISA
}  // namespace hadal
