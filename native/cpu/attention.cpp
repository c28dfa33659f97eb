#include "ops/attention.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/attention-bf16.h"
#include "cpu/attention-fp32.h"

// A kv head's queries are rows (query, head of its group), so that a group shares its keys, also when one token decodes.
// Tiles are kept transposed, keys × rows: softmax statistics are then plain vectors over rows, and keys and values are used
// as they lie in memory. Sums over one (batch, kv head) are ordered, whatever the thread: same bits for any thread count.
// This file cuts the work; attention-bf16.h and attention-fp32.h do it, on tiles of attention-tiles.h.
namespace hadal {
namespace HADAL_ISA {

namespace {

// Calls body with the tiles' code for a dtype.
template <class Body>
HADAL_INLINE auto withTiles(DType dtype, Body&& body) {
  if (dtype == DType::fp32) return body(Fp32Tiles<float>{});
  if (dtype == DType::fp16) return body(Fp32Tiles<Fp16>{});
  if constexpr (hasPairProducts)
    return body(Bf16Tiles{});
  else
    return body(Fp32Tiles<Bf16>{});
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

// Work is cut into this many items at least, where there are few heads.
constexpr int64_t leastItems = 8;

// First, last, second, last but one, …: shares of causal work, which grows, come out even.
HADAL_INLINE int64_t fromBothEnds(int64_t turn, int64_t count) { return turn % 2 ? count - 1 - turn / 2 : turn / 2; }

// ---- Forward

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
  return blockTiles * partialFloats(p) + withTiles(p.dtype, [&](auto tiles) { return tiles.forwardFloats(p); });
}
int64_t forwardWorkspace(const AttentionParams& p, int threads) {
  const int64_t shared = maySplit(p) ? p.batch * p.kvHeads * tilesOf(p) * spans * partialFloats(p) : 0;
  return (forwardFloats(p) * threads + shared) * 4;
}

HADAL_INLINE Partial takePartial(const AttentionParams& p, Workspace& work) {
  return {work.take(tileRows * p.valueDim), work.take(tileRows), work.take(tileRows)};
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
  const int64_t tileCount = tilesOf(p), pairs = p.batch * p.kvHeads;
  int64_t longest = start ? 0 : p.keys;
  for (int64_t b = 0; start && b < p.batch; b++) longest = larger(longest, start[b] + p.queries);
  const bool isSplit = maySplit(p) && isWorthSplitting(p, longest);
  float* workspace = static_cast<float*>(context.workspace);
  const auto threadWork = [&](int thread) { return Workspace{workspace + thread * forwardFloats(p)}; };
  const auto tileOf = [&](int64_t pair, int64_t at) {
    return tileAt(p, docIds, start, pair / p.kvHeads, pair % p.kvHeads, at * tileRows);
  };
  withTiles(p.dtype, [&](auto tiles) {
    using T = typename decltype(tiles)::Number;
    if (!isSplit) {
      const int64_t most = larger(1, smaller(blockTiles, pairs * tileCount / leastItems));
      const int64_t blocks = (tileCount + most - 1) / most;
      parallelFor(pairs * blocks, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t item = begin; item < end; item++) {
          const int64_t pair = item / blocks, firstTile = fromBothEnds(item % blocks, blocks) * most;
          Workspace work = threadWork(thread);
          QueryTile block[blockTiles];
          int64_t count = 0, from = p.keys, to = 0;
          for (; count < smaller(most, tileCount - firstTile); count++) {
            block[count] = {tileOf(pair, firstTile + count), takePartial(p, work)};
            from = smaller(from, block[count].tile.first);
            to = larger(to, block[count].tile.end);
          }
          tiles.forward(p, block, count, pair / p.kvHeads, pair % p.kvHeads, from, to, buffers, work);
          for (int64_t t = 0; t < count; t++) finishTile<T>(p, block[t].tile, block[t].out, buffers);
        }
      });
      return;
    }
    float* shared = workspace + context.threads * forwardFloats(p);
    const int64_t stride = partialFloats(p);
    const auto spanSize = [](const Tile& tile) {
      const int64_t share = (tile.end - tile.first + spans - 1) / spans;
      return larger(leastSpan, (share + tileKeys - 1) / tileKeys * tileKeys);
    };
    const auto partialOf = [&](int64_t item, int64_t span) {
      Workspace part{shared + (item * spans + span) * stride};
      return takePartial(p, part);
    };
    const int64_t count = pairs * tileCount;
    parallelFor(count * spans, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t item = i / spans, pair = item / tileCount, span = spanOrder[i % spans];
        const QueryTile part{tileOf(pair, item % tileCount), partialOf(item, span)};
        const int64_t from = part.tile.first + span * spanSize(part.tile);
        if (span > 0 && from >= part.tile.end) continue;
        const int64_t to = smaller(from + spanSize(part.tile), part.tile.end);
        tiles.forward(p, &part, 1, pair / p.kvHeads, pair % p.kvHeads, from, to, buffers, threadWork(thread));
      }
    });
    for (int64_t item = 0; item < count; item++) {
      const Tile tile = tileOf(item / tileCount, item % tileCount);
      const Partial first = partialOf(item, 0);
      const int64_t used = (tile.end - tile.first + spanSize(tile) - 1) / spanSize(tile);
      if (used > 1) joinSpans(p, tile, used, stride, first);
      finishTile<T>(p, tile, first, buffers);
    }
  });
}

// ---- Backward

// Few heads are cut into ranges of queries, each with its own sums of dk and dv. What is cut depends on sizes only: same bits
// for any thread count.
constexpr int64_t leastTiles = 2;  // of queries in a range

HADAL_INLINE int64_t partsOf(const AttentionParams& p) {
  const int64_t pairs = p.batch * p.kvHeads;
  return larger(1, smaller((leastItems + pairs - 1) / larger(1, pairs), tilesOf(p) / leastTiles));
}
HADAL_INLINE int64_t gradientFloats(const AttentionParams& p) {
  return p.keys * (padded(p.keyDim) + padded(p.valueDim));
}
int64_t backwardFloats(const AttentionParams& p) {
  return withTiles(p.dtype, [&](auto tiles) { return tiles.backwardFloats(p); });
}
int64_t backwardWorkspace(const AttentionParams& p, int threads) {
  const int64_t parts = partsOf(p), sums = parts > 1 ? p.batch * p.kvHeads * parts : threads;
  return (backwardFloats(p) * threads + gradientFloats(p) * sums) * 4;
}

// x[row i] = factor · the sum of `parts` of in[i], which lie `stride` apart.
template <class T>
void writeGradient(int64_t from, int64_t to, int64_t firstRow, int64_t rowStep, const float* in, int64_t parts,
                   int64_t stride, int64_t dim, float factor, T* x) {
  for (int64_t i = from; x && i < to; i++)
    forLanes(dim, [&](int64_t d, auto part) {
      const float* at = in + i * padded(dim) + d;
      Vec sum = load(at);
      for (int64_t n = 1; n < parts; n++) sum += load(at + n * stride);
      store(x + (firstRow + i * rowStep) * dim + d, part, sum * factor);
    });
}

void backward(const AttentionBackwardParams& p, void* const* buffers, RunContext& context) {
  if (!startsFit(p, static_cast<const int32_t*>(buffers[6]), static_cast<const int32_t*>(buffers[7]), context)) return;
  const int64_t parts = partsOf(p), pairs = p.batch * p.kvHeads, tileCount = tilesOf(p), stride = gradientFloats(p);
  float* workspace = static_cast<float*>(context.workspace);
  float* sums = workspace + context.threads * backwardFloats(p);
  withTiles(p.dtype, [&](auto tiles) {
    using T = typename decltype(tiles)::Number;
    // Keys [from, to) of a (batch, kv head).
    const auto write = [&](int64_t pair, int64_t from, int64_t to, const float* dk) {
      const int64_t row = pair / p.kvHeads * p.keys * p.kvHeads + pair % p.kvHeads;
      const float factor = tiles.scalesKeyGradient ? static_cast<float>(p.scale) : 1;
      const float* dv = dk + p.keys * padded(p.keyDim);
      writeGradient(from, to, row, p.kvHeads, dk, parts, stride, p.keyDim, factor, static_cast<T*>(buffers[9]));
      writeGradient(from, to, row, p.kvHeads, dv, parts, stride, p.valueDim, 1, static_cast<T*>(buffers[10]));
    };
    parallelFor(pairs * parts, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t item = begin; item < end; item++) {
        const int64_t pair = item / parts, part = fromBothEnds(item % parts, parts);
        float* dk = sums + (parts > 1 ? pair * parts + part : thread) * stride;
        std::memset(dk, 0, static_cast<size_t>(stride) * 4);
        const int64_t from = tileCount * part / parts * tileRows, to = tileCount * (part + 1) / parts * tileRows;
        tiles.backward(p, pair / p.kvHeads, pair % p.kvHeads, from, smaller(to, p.queries * p.group()), buffers,
                       Workspace{workspace + thread * backwardFloats(p)}, buffers[9] ? dk : nullptr,
                       buffers[10] ? dk + p.keys * padded(p.keyDim) : nullptr);
        if (parts == 1) write(pair, 0, p.keys, dk);
      }
    });
    if (parts == 1) return;
    parallelFor(pairs * p.keys, context.threads, tileKeys, [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end;) {
        const int64_t pair = at / p.keys, next = smaller(end, (pair + 1) * p.keys);
        write(pair, at % p.keys, next - pair * p.keys, sums + pair * parts * stride);
        at = next;
      }
    });
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(attention, AttentionParams, forward, forwardWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(attentionBackward, AttentionBackwardParams, backward, backwardWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
