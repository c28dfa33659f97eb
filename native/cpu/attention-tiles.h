// What the forward and backward of attention share: tiles of queries, the keys they see, their numbers' ways in and out,
// and small products in registers.
#pragma once
#include "cpu/simd.h"
#include "ops/attention.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

constexpr int64_t tileRows = 64;  // columns of a transposed tile: four vectors of AVX-512
constexpr int64_t tileKeys = 64;  // 64 × 64 scores are 16 KiB: they stay in the first-level cache
constexpr float lowest = -3e38f;

HADAL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HADAL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
HADAL_INLINE int64_t padded(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// Cuts a thread's workspace into arrays of whole vectors.
struct Workspace {
  float* next;
  HADAL_INLINE float* take(int64_t count) {
    float* taken = next;
    next += padded(count);
    return taken;
  }
  HADAL_INLINE uint32_t* takePairs(int64_t count) { return reinterpret_cast<uint32_t*>(take(count)); }
};

// Softmax over some of the keys that a tile sees: outputs [E][tileRows] are not divided by their sums yet.
struct Partial {
  float *o, *maxima, *sums;
};

constexpr int64_t blockTiles = 4;  // row tiles that share a packed tile of keys

// ---- Tiles

// Consecutive rows of one kv head and the keys they see.
struct Tile {
  int64_t count, width;                  // rows; the same rounded up to whole vectors
  int64_t first, end;                    // some row sees keys of [first, end)
  int64_t commonFirst, commonEnd;        // every row sees all keys of [commonFirst, commonEnd)
  int64_t row[tileRows];                 // which vector of q and o
  int64_t statistic[tileRows];           // which number of logsumexp
  int32_t from[tileRows], to[tileRows];  // keys that a row sees; none for rows beyond count

  HADAL_INLINE bool isMasked(int64_t key, int64_t keys) const { return key < commonFirst || key + keys > commonEnd; }
};

// Keys that the queries of one batch entry see, asked in order of the queries.
struct Sight {
  const AttentionParams& p;
  const int32_t* docIds;  // of the batch entry, or null
  int64_t start;          // of the batch entry, or -1
  int64_t query = -1, first = 0, end = 0;
  int64_t runEnd = 0;  // of the run of equal ids that the query is in

  HADAL_INLINE void move(int64_t next) {
    query = next;
    const bool isPadding = docIds && docIds[query] < 0;
    if (start >= 0) {
      end = isPadding ? 0 : start + query + 1;
      return;
    }
    if (docIds && query >= runEnd) findRun();
    const int64_t last = docIds ? runEnd : p.keys;
    end = isPadding ? first : smaller(p.causal ? smaller(query + 1, last) : last, p.keys);
  }

 private:
  void findRun() {
    const int32_t id = docIds[query];
    for (first = query; first > 0 && docIds[first - 1] == id; first--) {
    }
    for (runEnd = query + 1; runEnd < p.queries && docIds[runEnd] == id; runEnd++) {
    }
  }
};

Tile tileAt(const AttentionParams& p, const int32_t* docIds, const int32_t* start, int64_t batch, int64_t kvHead,
            int64_t firstRow) {
  Tile tile;
  const int64_t group = p.group();
  tile.count = smaller(tileRows, p.queries * group - firstRow);
  tile.width = padded(tile.count);
  tile.first = tile.commonEnd = p.keys;
  tile.end = tile.commonFirst = 0;
  Sight sight{p, docIds ? docIds + batch * p.queries : nullptr, start ? start[batch] : -1};
  int64_t query = firstRow / group, inGroup = firstRow % group;
  for (int64_t i = 0; i < tileRows; i++) {
    tile.from[i] = tile.to[i] = 0;
    if (i >= tile.count) continue;
    if (i > 0 && ++inGroup == group) inGroup = 0, query++;
    const int64_t head = kvHead * group + inGroup;
    tile.row[i] = (batch * p.queries + query) * p.heads + head;
    tile.statistic[i] = (batch * p.heads + head) * p.queries + query;
    if (query != sight.query) sight.move(query);
    tile.from[i] = static_cast<int32_t>(sight.first);
    tile.to[i] = static_cast<int32_t>(sight.end);
    tile.commonFirst = larger(tile.commonFirst, sight.first);
    tile.commonEnd = smaller(tile.commonEnd, sight.end);
    if (sight.first == sight.end) continue;
    tile.first = smaller(tile.first, sight.first);
    tile.end = larger(tile.end, sight.end);
  }
  return tile;
}

struct QueryTile {
  Tile tile;
  Partial out;
};

HADAL_INLINE IVec sees(const Tile& tile, int64_t column, int64_t key) {
  const IVec from = *reinterpret_cast<const IVec*>(tile.from + column),
             to = *reinterpret_cast<const IVec*>(tile.to + column);
  const IVec at = IVec{} + static_cast<int32_t>(key);
  return (at >= from) & (at < to);
}

// x[row i][d] = factors[i] · in[d][i]
template <class T>
void unpackTransposed(const Tile& tile, const float* in, int64_t dim, const float* factors, T* x) {
  for (int64_t column = 0; column < tile.width; column += lanes) {
    const Vec factor = load(factors + column);
    forLanes(dim, [&](int64_t d, auto part) {
      Vec rows[lanes];
      for (int i = 0; i < lanes; i++) rows[i] = d + i < dim ? load(in + (d + i) * tileRows + column) * factor : Vec{};
      transpose(rows);
      for (int i = 0; i < lanes && column + i < tile.count; i++)
        store(x + tile.row[column + i] * dim + d, part, rows[i]);
    });
  }
}

// logsumexp and delta = Σ do·o of a tile's rows, 0 for rows beyond count.
template <class T>
void loadStatistics(const AttentionParams& p, const Tile& tile, void* const* buffers, float* logsumexp, float* delta) {
  const T* dOut = static_cast<const T*>(buffers[0]);
  const T* out = static_cast<const T*>(buffers[4]);
  for (int64_t i = 0; i < tileRows; i++) {
    logsumexp[i] = delta[i] = 0;
    if (i >= tile.count) continue;
    logsumexp[i] = static_cast<const float*>(buffers[5])[tile.statistic[i]];
    const int64_t row = tile.row[i] * p.valueDim;
    Vec dots = {};
    forLanes(p.valueDim, [&](int64_t d, auto part) { dots += load(dOut + row + d, part) * load(out + row + d, part); });
    delta[i] = sum(dots);
  }
}

}  // namespace

}  // namespace HADAL_ISA
}  // namespace hadal
