#include "ops/attention.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

// A kv head's queries are rows (query, head of its group), so that a group shares its keys, also when one token decodes.
// Tiles are kept transposed, keys × rows: softmax statistics are then plain vectors over rows, and keys and values are used
// as they lie in memory. Work on one (batch, kv head) is ordered, whatever the thread: same bits for any thread count.
namespace hadal {
namespace HADAL_ISA {

namespace {

constexpr int64_t tileRows = 64;  // columns of a transposed tile: four vectors of AVX-512
constexpr int64_t tileKeys = 64;  // 64 × 64 scores are 16 KiB: they stay in the first-level cache
// Block of a product that is held in registers: 24 of AVX-512's 32, 12 of the 16 of AVX2 and SSE.
constexpr int blockVectors = lanes == 16 ? 4 : 2;
constexpr int blockRows = 6;
constexpr float lowest = -3e38f;

HADAL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HADAL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
HADAL_INLINE int64_t padded(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// ---- Small products of fp32 matrices: c (+)= a · b. Element (i, d) of a lies at i · aRow + d · aDepth.

struct Left {
  const float* at;
  int64_t row, depth;
};

template <int rows, int vectors>
HADAL_INLINE void block(int64_t depth, Left a, const float* b, int64_t bRow, float* c, int64_t cRow, bool add) {
  Vec sums[rows][vectors];
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) sums[i][j] = add ? load(c + i * cRow + j * lanes) : Vec{};
  for (int64_t d = 0; d < depth; d++) {
    Vec right[vectors];
    for (int j = 0; j < vectors; j++) right[j] = load(b + d * bRow + j * lanes);
    for (int i = 0; i < rows; i++) {
      const float left = a.at[i * a.row + d * a.depth];
      for (int j = 0; j < vectors; j++) sums[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) store(c + i * cRow + j * lanes, sums[i][j]);
}

// The last rows, fewer than blockRows of them.
template <int rows, int vectors>
HADAL_INLINE void lastRows(int64_t count, int64_t depth, Left a, const float* b, int64_t bRow, float* c, int64_t cRow,
                           bool add) {
  if constexpr (rows > 0) {
    if (count == rows) return block<rows, vectors>(depth, a, b, bRow, c, cRow, add);
    lastRows<rows - 1, vectors>(count, depth, a, b, bRow, c, cRow, add);
  }
}

template <int vectors>
__attribute__((noinline)) void strip(int64_t rows, int64_t depth, Left a, const float* b, int64_t bRow, float* c,
                                     int64_t cRow, bool add) {
  for (; rows >= blockRows; rows -= blockRows, a.at += blockRows * a.row, c += blockRows * cRow)
    block<blockRows, vectors>(depth, a, b, bRow, c, cRow, add);
  lastRows<blockRows - 1, vectors>(rows, depth, a, b, bRow, c, cRow, add);
}

// columns is a multiple of lanes.
void product(int64_t rows, int64_t columns, int64_t depth, Left a, const float* b, int64_t bRow, float* c, int64_t cRow,
             bool add) {
  for (int64_t j = 0; j < columns; j += blockVectors * lanes) {
    switch (smaller(blockVectors, (columns - j) / lanes)) {
      case 1:
        strip<1>(rows, depth, a, b + j, bRow, c + j, cRow, add);
        break;
      case 2:
        strip<2>(rows, depth, a, b + j, bRow, c + j, cRow, add);
        break;
      case 3:
        strip<3>(rows, depth, a, b + j, bRow, c + j, cRow, add);
        break;
      default:
        strip<blockVectors>(rows, depth, a, b + j, bRow, c + j, cRow, add);
    }
  }
}

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
  for (int64_t i = 0; i < tileRows; i++) {
    tile.from[i] = tile.to[i] = 0;
    if (i >= tile.count) continue;
    const int64_t query = (firstRow + i) / group, head = kvHead * group + (firstRow + i) % group;
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

HADAL_INLINE IVec sees(const Tile& tile, int64_t column, int64_t key) {
  const IVec from = *reinterpret_cast<const IVec*>(tile.from + column),
             to = *reinterpret_cast<const IVec*>(tile.to + column);
  const IVec at = IVec{} + static_cast<int32_t>(key);
  return (at >= from) & (at < to);
}

// out[d][i] = factor · x[row i][d]
template <class T>
void packTransposed(const Tile& tile, const T* x, int64_t dim, float factor, float* out) {
  for (int64_t column = 0; column < tile.width; column += lanes) {
    forLanes(dim, [&](int64_t d, auto part) {
      Vec rows[lanes];
      for (int i = 0; i < lanes; i++)
        rows[i] = column + i < tile.count ? load(x + tile.row[column + i] * dim + d, part) * factor : Vec{};
      transpose(rows);
      for (int i = 0; i < smaller(lanes, dim - d); i++) store(out + (d + i) * tileRows + column, rows[i]);
    });
  }
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

// Rows as they are, each padded with zeros to whole vectors: out[i][d] = factor · x[row i][d]
template <class T, class Row>
HADAL_INLINE void packRows(int64_t count, Row&& row, const T* x, int64_t dim, float factor, float* out) {
  for (int64_t i = 0; i < count; i++)
    forLanes(dim, [&](int64_t d, auto part) {
      store(out + i * padded(dim) + d, load(x + row(i) * dim + d, part) * factor);
    });
}

// The way back: x[row i][d] = in[i][d]
template <class T, class Row>
HADAL_INLINE void unpackRows(int64_t count, Row&& row, const float* in, int64_t dim, T* x) {
  for (int64_t i = 0; i < count; i++)
    forLanes(dim, [&](int64_t d, auto part) { store(x + row(i) * dim + d, part, load(in + i * padded(dim) + d)); });
}

bool startsFit(const AttentionParams& p, const int32_t* docIds, const int32_t* start, RunContext& context) {
  for (int64_t b = 0; start && b < p.batch; b++) {
    int64_t used = p.queries;
    while (docIds && used > 0 && docIds[b * p.queries + used - 1] < 0) used--;
    if (start[b] >= 0 && start[b] <= p.keys - used) continue;
    context.fail("[attention] expected start + %lld queries within a cache of %lld keys, got start %d",
                 static_cast<long long>(used), static_cast<long long>(p.keys), start[b]);
    return false;
  }
  return true;
}

// Cuts a thread's workspace into arrays of whole vectors.
struct Workspace {
  float* next;
  HADAL_INLINE float* take(int64_t count) {
    float* taken = next;
    next += padded(count);
    return taken;
  }
};

// ---- Forward

// Softmax over some of the keys that a tile sees: outputs [E][tileRows] are not divided by their sums yet.
struct Partial {
  float *o, *maxima, *sums;
};

// With a long cache and few tiles, as when one token decodes over latents, a tile's keys are cut into spans, one after the
// other in memory, which threads share. What is cut depends on the data only: same bits for any thread count.
constexpr int64_t spans = 16, leastSpan = 2 * tileKeys, mostSplitTiles = 8;
// Neighbours far apart, so that threads get as many of the first spans each: the last ones may be empty.
constexpr int64_t spanOrder[spans] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

HADAL_INLINE int64_t tilesOf(const AttentionParams& p) { return (p.queries * p.group() + tileRows - 1) / tileRows; }
HADAL_INLINE bool isWorthSplitting(const AttentionParams& p, int64_t keys) {
  // Some 70 µs of work: several times what waking a thread takes.
  return keys * (p.keyDim + p.valueDim) >= 1 << 18 && p.batch * p.kvHeads * tilesOf(p) < mostSplitTiles;
}
HADAL_INLINE bool maySplit(const AttentionParams& p) { return p.keys > p.queries && isWorthSplitting(p, p.keys); }

int64_t partialFloats(const AttentionParams& p) { return tileRows * (p.valueDim + 2); }
int64_t forwardFloats(const AttentionParams& p) {
  return partialFloats(p) + tileRows * (p.keyDim + tileKeys) + tileKeys * (padded(p.keyDim) + padded(p.valueDim));
}
int64_t forwardWorkspace(const AttentionParams& p, int threads) {
  const int64_t shared = maySplit(p) ? p.batch * p.kvHeads * tilesOf(p) * spans * partialFloats(p) : 0;
  return (forwardFloats(p) * threads + shared) * 4;
}

HADAL_INLINE Partial partialAt(const AttentionParams& p, Workspace work) {
  return {work.take(tileRows * p.valueDim), work.take(tileRows), work.take(tileRows)};
}

// Running softmax over one tile of scores: turns scores into e^(s − maximum), rescales sums and outputs to the new maximum.
template <bool masked>
HADAL_INLINE void softmaxTile(const Tile& tile, int64_t key, int64_t keys, float* scores, float* maxima, float* sums,
                              float* outputs, int64_t dim) {
  for (int64_t column = 0; column < tile.width; column += lanes) {
    const Vec before = load(maxima + column);
    Vec top = before;
    for (int64_t i = 0; i < keys; i++) {
      const Vec score = load(scores + i * tileRows + column);
      top = max(masked ? select(sees(tile, column, key + i), score, splat(lowest)) : score, top);
    }
    Vec total = {};
    for (int64_t i = 0; i < keys; i++) {
      float* at = scores + i * tileRows + column;
      Vec e = exp(load(at) - top);
      if (masked) e = select(sees(tile, column, key + i), e, Vec{});
      total += e;
      store(at, e);
    }
    const Vec decay = exp(before - top);
    store(maxima + column, top);
    store(sums + column, load(sums + column) * decay + total);
    for (int64_t d = 0; d < dim; d++) {
      float* at = outputs + d * tileRows + column;
      store(at, load(at) * decay);
    }
  }
}

// Keys [from, to) of a tile.
template <class T>
void forwardSpan(const AttentionParams& p, const Tile& tile, int64_t batch, int64_t kvHead, int64_t from, int64_t to,
                 void* const* buffers, Workspace work, Partial out) {
  const int64_t D = p.keyDim, E = p.valueDim;
  float* q = work.take(tileRows * D);
  float* scores = work.take(tileRows * tileKeys);
  float* k = work.take(tileKeys * padded(D));
  float* v = p.valueInKey ? k : work.take(tileKeys * padded(E));
  const int64_t vRow = p.valueInKey ? padded(D) : padded(E);
  packTransposed(tile, static_cast<const T*>(buffers[0]), D, static_cast<float>(p.scale), q);
  std::memset(out.o, 0, static_cast<size_t>(tileRows * E) * 4);
  for (int64_t i = 0; i < tileRows; i++) out.maxima[i] = lowest, out.sums[i] = 0;

  for (int64_t key = from; key < to; key += tileKeys) {
    const int64_t keys = smaller(tileKeys, to - key);
    const auto row = [&](int64_t i) { return (batch * p.keys + key + i) * p.kvHeads + kvHead; };
    packRows(keys, row, static_cast<const T*>(buffers[1]), D, 1, k);
    if (!p.valueInKey) packRows(keys, row, static_cast<const T*>(buffers[2]), E, 1, v);
    product(keys, tile.width, D, {k, padded(D), 1}, q, tileRows, scores, tileRows, false);
    if (tile.isMasked(key, keys))
      softmaxTile<true>(tile, key, keys, scores, out.maxima, out.sums, out.o, E);
    else
      softmaxTile<false>(tile, key, keys, scores, out.maxima, out.sums, out.o, E);
    product(E, tile.width, keys, {v, 1, vRow}, scores, tileRows, out.o, tileRows, true);
  }
}

// The first span's sums and outputs become those of all `count` of them, which lie `stride` apart.
void joinSpans(const AttentionParams& p, const Tile& tile, int64_t count, int64_t stride, Partial first) {
  for (int64_t column = 0; column < tile.width; column += lanes) {
    Vec top = load(first.maxima + column), total = {}, factors[spans];
    for (int64_t s = 1; s < count; s++) top = max(load(first.maxima + s * stride + column), top);
    for (int64_t s = 0; s < count; s++) {
      factors[s] = exp(load(first.maxima + s * stride + column) - top);
      total += load(first.sums + s * stride + column) * factors[s];
    }
    store(first.maxima + column, top);
    store(first.sums + column, total);
    for (int64_t d = 0; d < p.valueDim; d++) {
      float* at = first.o + d * tileRows + column;
      Vec sum = {};
      for (int64_t s = 0; s < count; s++) sum += load(at + s * stride) * factors[s];
      store(at, sum);
    }
  }
}

template <class T>
void finishTile(const AttentionParams& p, const Tile& tile, Partial whole, void* const* buffers) {
  float* logsumexp = static_cast<float*>(buffers[6]);
  for (int64_t i = 0; i < tile.count; i++) {
    const bool blind = tile.from[i] >= tile.to[i];
    if (logsumexp) logsumexp[tile.statistic[i]] = blind ? 0 : whole.maxima[i] + std::log(whole.sums[i]);
    whole.sums[i] = blind ? 0 : 1 / whole.sums[i];
  }
  unpackTransposed(tile, whole.o, p.valueDim, whole.sums, static_cast<T*>(buffers[5]));
}

void forward(const AttentionParams& p, void* const* buffers, RunContext& context) {
  const int32_t* docIds = static_cast<const int32_t*>(buffers[3]);
  const int32_t* start = static_cast<const int32_t*>(buffers[4]);
  if (!startsFit(p, docIds, start, context)) return;
  const int64_t tiles = tilesOf(p), count = p.batch * p.kvHeads * tiles;
  int64_t longest = start ? 0 : p.keys;
  for (int64_t b = 0; start && b < p.batch; b++) longest = larger(longest, start[b] + p.queries);
  const bool isSplit = maySplit(p) && isWorthSplitting(p, longest);
  float* workspace = static_cast<float*>(context.workspace);
  const auto threadWork = [&](int thread) { return Workspace{workspace + thread * forwardFloats(p)}; };
  // body(tile, batch, kv head) of tile `item`. First, last, second, last but one, …: shares of causal tiles, which grow,
  // come out even.
  const auto withTile = [&](int64_t item, auto&& body) {
    const int64_t pair = item / tiles, turn = item % tiles, at = turn % 2 ? tiles - 1 - turn / 2 : turn / 2;
    const int64_t batch = pair / p.kvHeads, kvHead = pair % p.kvHeads;
    body(tileAt(p, docIds, start, batch, kvHead, at * tileRows), batch, kvHead);
  };
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    if (!isSplit) {
      parallelFor(count, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t item = begin; item < end; item++)
          withTile(item, [&](const Tile& tile, int64_t batch, int64_t kvHead) {
            Workspace work = threadWork(thread);
            const Partial whole = partialAt(p, work);
            work.next += partialFloats(p);
            forwardSpan<T>(p, tile, batch, kvHead, tile.first, tile.end, buffers, work, whole);
            finishTile<T>(p, tile, whole, buffers);
          });
      });
      return;
    }
    float* shared = workspace + context.threads * forwardFloats(p);
    const int64_t stride = partialFloats(p);
    const auto spanSize = [](const Tile& tile) {
      const int64_t share = (tile.end - tile.first + spans - 1) / spans;
      return larger(leastSpan, (share + tileKeys - 1) / tileKeys * tileKeys);
    };
    parallelFor(count * spans, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; i++)
        withTile(i / spans, [&](const Tile& tile, int64_t batch, int64_t kvHead) {
          const int64_t span = spanOrder[i % spans], from = tile.first + span * spanSize(tile);
          if (span > 0 && from >= tile.end) return;
          const Partial part = partialAt(p, Workspace{shared + (i / spans * spans + span) * stride});
          const int64_t to = smaller(from + spanSize(tile), tile.end);
          forwardSpan<T>(p, tile, batch, kvHead, from, to, buffers, threadWork(thread), part);
        });
    });
    for (int64_t item = 0; item < count; item++)
      withTile(item, [&](const Tile& tile, int64_t, int64_t) {
        const Partial first = partialAt(p, Workspace{shared + item * spans * stride});
        const int64_t used = (tile.end - tile.first + spanSize(tile) - 1) / spanSize(tile);
        if (used > 1) joinSpans(p, tile, used, stride, first);
        finishTile<T>(p, tile, first, buffers);
      });
  });
}

// ---- Backward

int64_t backwardFloats(const AttentionParams& p) {
  const int64_t D = padded(p.keyDim), E = padded(p.valueDim);
  return tileRows * (3 * D + 2 * E + 2 * tileKeys + 3) + (tileKeys + padded(p.keys)) * (D + E);
}
int64_t backwardWorkspace(const AttentionParams& p, int threads) { return backwardFloats(p) * threads * 4; }

// Scores become p, products do·vᵀ become ds without its factor scale.
template <bool masked>
HADAL_INLINE void softmaxBackwardTile(const Tile& tile, int64_t key, int64_t keys, float* scores, float* slopes,
                                      const float* logsumexp, const float* delta) {
  for (int64_t column = 0; column < tile.width; column += lanes) {
    const Vec log = load(logsumexp + column), mean = load(delta + column);
    for (int64_t i = 0; i < keys; i++) {
      const int64_t at = i * tileRows + column;
      Vec weight = exp(load(scores + at) - log);
      if (masked) weight = select(sees(tile, column, key + i), weight, Vec{});
      store(scores + at, weight);
      store(slopes + at, weight * (load(slopes + at) - mean));
    }
  }
}

template <class T>
void backwardHead(const AttentionBackwardParams& p, int64_t batch, int64_t kvHead, void* const* buffers,
                  Workspace work) {
  const T* dOut = static_cast<const T*>(buffers[0]);
  const T* out = static_cast<const T*>(buffers[4]);
  const float* statistics = static_cast<const float*>(buffers[5]);
  T* dQuery = static_cast<T*>(buffers[8]);
  T* dKey = static_cast<T*>(buffers[9]);
  T* dValue = static_cast<T*>(buffers[10]);
  const int64_t D = padded(p.keyDim), E = padded(p.valueDim);
  float* qT = work.take(tileRows * D);
  float* doT = work.take(tileRows * E);
  float* q = work.take(tileRows * D);
  float* dOutRows = work.take(tileRows * E);
  float* dqT = work.take(tileRows * D);
  float* scores = work.take(tileRows * tileKeys);
  float* slopes = work.take(tileRows * tileKeys);
  float* k = work.take(tileKeys * D);
  float* v = work.take(tileKeys * E);
  float* logsumexp = work.take(tileRows);
  float* delta = work.take(tileRows);
  float* factors = work.take(tileRows);
  float* dk = work.take(p.keys * D);
  float* dv = work.take(p.keys * E);
  std::memset(dk, 0, static_cast<size_t>(p.keys * D) * 4);
  std::memset(dv, 0, static_cast<size_t>(p.keys * E) * 4);
  for (int64_t i = 0; i < tileRows; i++) factors[i] = static_cast<float>(p.scale);

  for (int64_t first = 0; first < p.queries * p.group(); first += tileRows) {
    const Tile tile = tileAt(p, static_cast<const int32_t*>(buffers[6]), static_cast<const int32_t*>(buffers[7]), batch,
                             kvHead, first);
    const auto tileRow = [&](int64_t i) { return tile.row[i]; };
    packTransposed(tile, static_cast<const T*>(buffers[1]), p.keyDim, static_cast<float>(p.scale), qT);
    packTransposed(tile, dOut, p.valueDim, 1, doT);
    packRows(tile.count, tileRow, static_cast<const T*>(buffers[1]), p.keyDim, static_cast<float>(p.scale), q);
    packRows(tile.count, tileRow, dOut, p.valueDim, 1, dOutRows);
    std::memset(dqT, 0, static_cast<size_t>(tileRows * D) * 4);
    for (int64_t i = 0; i < tileRows; i++) {
      logsumexp[i] = delta[i] = 0;
      if (i >= tile.count) continue;
      logsumexp[i] = statistics[tile.statistic[i]];
      Vec dots = {};
      forLanes(p.valueDim, [&](int64_t d, auto part) {
        dots += load(dOutRows + i * E + d) * load(out + tile.row[i] * p.valueDim + d, part);
      });
      delta[i] = sum(dots);
    }

    for (int64_t key = tile.first; key < tile.end; key += tileKeys) {
      const int64_t keys = smaller(tileKeys, tile.end - key);
      const auto row = [&](int64_t i) { return (batch * p.keys + key + i) * p.kvHeads + kvHead; };
      packRows(keys, row, static_cast<const T*>(buffers[2]), p.keyDim, 1, k);
      packRows(keys, row, static_cast<const T*>(buffers[3]), p.valueDim, 1, v);
      product(keys, tile.width, p.keyDim, {k, D, 1}, qT, tileRows, scores, tileRows, false);
      product(keys, tile.width, p.valueDim, {v, E, 1}, doT, tileRows, slopes, tileRows, false);
      if (tile.isMasked(key, keys))
        softmaxBackwardTile<true>(tile, key, keys, scores, slopes, logsumexp, delta);
      else
        softmaxBackwardTile<false>(tile, key, keys, scores, slopes, logsumexp, delta);
      if (dValue) product(keys, E, tile.count, {scores, tileRows, 1}, dOutRows, E, dv + key * E, E, true);
      if (dKey) product(keys, D, tile.count, {slopes, tileRows, 1}, q, D, dk + key * D, D, true);
      if (dQuery) product(p.keyDim, tile.width, keys, {k, 1, D}, slopes, tileRows, dqT, tileRows, true);
    }
    if (dQuery) unpackTransposed(tile, dqT, p.keyDim, factors, dQuery);
  }
  const auto row = [&](int64_t i) { return (batch * p.keys + i) * p.kvHeads + kvHead; };
  if (dKey) unpackRows(p.keys, row, dk, p.keyDim, dKey);
  if (dValue) unpackRows(p.keys, row, dv, p.valueDim, dValue);
}

void backward(const AttentionBackwardParams& p, void* const* buffers, RunContext& context) {
  if (!startsFit(p, static_cast<const int32_t*>(buffers[6]), static_cast<const int32_t*>(buffers[7]), context)) return;
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(p.batch * p.kvHeads, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
      const Workspace work{static_cast<float*>(context.workspace) + thread * backwardFloats(p)};
      for (int64_t pair = begin; pair < end; pair++)
        backwardHead<T>(p, pair / p.kvHeads, pair % p.kvHeads, buffers, work);
    });
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(attention, AttentionParams, forward, forwardWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(attentionBackward, AttentionBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
