// Attention's tiles in bf16 where the machine multiplies pairs of bf16: scores, statistics and sums are fp32, probabilities
// and slopes are rounded to bf16 for their products. A row of pairs is uint32s; pairs run along the depth of a product:
//   rows [row][dim / 2] as in memory, transposed [dim / 2][row], paired [row / 2][dim]: numbers of two neighbouring rows.
#pragma once
#include "cpu/attention-product.h"
#include "cpu/attention-tiles.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

struct Bf16Tiles {
  using Number = Bf16;
  static constexpr float log2e = 1.44269504088896341f, ln2 = 0.693147180559945309f;
  static constexpr float unseen = -1e30f;  // maximum of no scores: above `lowest`, so that those become 0

  // 2^x for x ≤ 127, to 2^-13: p is rounded to 2^-9. Exactly 0 below 2^-127 (denormals count as 0); NaN stays.
  HADAL_INLINE static Vec exp2(Vec x) {
    const Vec clamped = max(splat(-127.0f), x);
    const Vec shifted = clamped + 12582912.0f;  // 1.5 * 2^23: rounds to integer
    const Vec r = clamped - (shifted - 12582912.0f);
    const Vec e = ((0.05500897f * r + 0.24221106f) * r + 0.69328293f) * r + 1.0f;
    return reinterpret_cast<Vec>(reinterpret_cast<UVec>(e) + (reinterpret_cast<UVec>(shifted) << 23));
  }

  HADAL_INLINE static int64_t pairs(int64_t n) { return (n + 1) / 2; }
  HADAL_INLINE static int64_t rowPairs(int64_t dim) { return padded(pairs(dim)); }  // of a padded row

  HADAL_INLINE static UVec loadPairs(const void* p) { return *static_cast<const UVec*>(p); }
  HADAL_INLINE static void storePairs(void* p, UVec x) { *static_cast<UVec*>(p) = x; }

  // Rows as they are, padded with zeros; also whole rows of zeros up to `padding`.
  template <class Row>
  HADAL_INLINE static void packRows(int64_t count, int64_t padding, Row&& row, const Bf16* x, int64_t dim,
                                    uint32_t* out) {
    for (int64_t i = 0; i < count; i++, out += rowPairs(dim)) {
      const Bf16* from = x + row(i) * dim;
      Bf16* to = reinterpret_cast<Bf16*>(out);
      int64_t d = 0;
      for (; d + 2 * lanes <= dim; d += 2 * lanes) storePairs(to + d, loadPairs(from + d));
      if (d == dim) continue;
      storePairs(to + d, UVec{});
      forLanes(dim - d, [&](int64_t e, auto part) { store(to + d + e, part, load(from + d + e, part)); });
    }
    std::memset(out, 0, static_cast<size_t>((padding - count) * rowPairs(dim)) * 4);
  }

  // From rows of packRows.
  static void transposeRows(const Tile& tile, const uint32_t* rows, int64_t dim, uint32_t* out) {
    for (int64_t column = 0; column < tile.width; column += lanes)
      for (int64_t d = 0; d < pairs(dim); d += lanes) {
        Vec x[lanes];
        for (int i = 0; i < lanes; i++)
          x[i] = reinterpret_cast<Vec>(loadPairs(rows + (column + i) * rowPairs(dim) + d));
        transpose(x);
        for (int i = 0; i < smaller(lanes, pairs(dim) - d); i++)
          storePairs(out + (d + i) * tileRows + column, reinterpret_cast<UVec>(x[i]));
      }
  }

  // The first dim numbers of rows xDim wide.
  template <class Row>
  HADAL_INLINE static void pairRows(int64_t count, Row&& row, const Bf16* x, int64_t xDim, int64_t dim, uint32_t* out) {
    for (int64_t i = 0; i < count; i += 2, out += padded(dim)) {
      const Bf16* low = x + row(i) * xDim;
      const Bf16* high = i + 1 < count ? x + row(i + 1) * xDim : nullptr;
      forLanes(dim, [&](int64_t d, auto part) {
        const UVec upper = high ? reinterpret_cast<UVec>(load(high + d, part)) : UVec{};
        storePairs(out + d, reinterpret_cast<UVec>(load(low + d, part)) >> 16 | upper);
      });
    }
  }

  // Columns of a tile and what they see of a tile of keys: keys [from, to), all of them unless masked.
  struct Part {
    int64_t column, width, from, to;
    bool isMasked;
  };

  // A masked tile is cut in halves: along the diagonal of causal attention a quarter of it need not be computed.
  template <class Body>
  HADAL_INLINE static void forParts(const Tile& tile, int64_t key, int64_t keys, Body&& body) {
    constexpr int64_t columns = 2 * lanes;
    if (keys <= 0) return;
    if (!tile.isMasked(key, keys)) return body(Part{0, tile.width, key, key + keys, false});
    for (int64_t column = 0; column < tile.width; column += columns) {
      int64_t first = key + keys, end = key;
      for (int64_t i = column; i < smaller(column + columns, tile.count); i++) {
        if (tile.from[i] >= tile.to[i]) continue;
        first = smaller(first, tile.from[i]);
        end = larger(end, tile.to[i]);
      }
      first = key + larger(0, first - key) / 2 * 2;  // keys are packed in pairs
      end = smaller(end, key + keys);
      if (first < end) body(Part{column, smaller(columns, tile.width - column), first, end, true});
    }
  }

  // ---- Forward

  static int64_t forwardFloats(const AttentionParams& p) {
    const int64_t D = p.keyDim;
    return tileRows * (rowPairs(D) + blockTiles * (pairs(D) + 1) + 1) +
           tileKeys * (tileRows + rowPairs(D) + padded(p.valueDim) / 2);
  }

  // Scores [keys][tileRows] to the base 2, ready for the running maxima `tops`.
  template <bool masked>
  static void score(const Tile& tile, const Part& part, int64_t depth, Left<uint32_t> k, const uint32_t* qT,
                    float factor, float* scores, float* tops) {
    const auto finish = [&]<int rows, int vectors>(Sum(&sums)[rows][vectors], int64_t i, int64_t j)
        __attribute__((always_inline)) {
      for (int v = 0; v < vectors; v++) {
        const int64_t column = part.column + j + v * lanes;
        Vec top = load(tops + column);
        for (int n = 0; n < rows; n++) {
          Vec s = sums[n][v] * factor;
          if (masked) s = select(sees(tile, column, part.from + i + n), s, splat(lowest));
          top = max(top, s);
          store(scores + (i + n) * tileRows + column, s);
        }
        store(tops + column, top);
      }
    };
    product(part.to - part.from, part.width, depth, k, qT + part.column, tileRows, zero, finish);
  }

  // Scores become pairs of e^(s − maximum), in their place.
  static void softmaxPart(const Part& part, float* scores, const float* tops, float* decays, const Partial& out) {
    const int64_t keys = part.to - part.from;
    for (int64_t column = part.column; column < part.column + part.width; column += lanes) {
      const Vec top = load(tops + column), decay = exp2(load(out.maxima + column) - top);
      const UVec ones = UVec{} + 0x3f803f80u;  // pairs of 1: what is summed are the rounded numbers
      Vec total = load(out.sums + column) * decay;
      const auto weight = [&](int64_t i) { return exp2(load(scores + i * tileRows + column) - top); };
      for (int64_t i = 0; i < keys; i += 2) {
        const UVec weights = toPairs(weight(i), i + 1 < keys ? weight(i + 1) : Vec{});
        total = dotPairs(total, weights, ones);
        storePairs(scores + i / 2 * tileRows + column, weights);
      }
      store(out.maxima + column, top);
      store(out.sums + column, total);
      store(decays + column, decay);
    }
  }

  // Keys [from, to) of some tiles; from is where some tile's keys begin, or lies before.
  static void forward(const AttentionParams& p, const QueryTile* tiles, int64_t count, int64_t batch, int64_t kvHead,
                      int64_t from, int64_t to, void* const* buffers, Workspace work) {
    const int64_t D = p.keyDim, E = p.valueDim;
    uint32_t* q = work.takePairs(tileRows * rowPairs(D));
    uint32_t* qT = work.takePairs(blockTiles * tileRows * pairs(D));
    float* tops = work.take(blockTiles * tileRows);
    float* decays = work.take(tileRows);
    uint32_t* k = work.takePairs(tileKeys * rowPairs(D));
    uint32_t* v = work.takePairs(tileKeys / 2 * padded(E));
    float* scores = work.take(tileRows * tileKeys);
    const Bf16* values = static_cast<const Bf16*>(buffers[p.valueInKey ? 1 : 2]);
    const float factor = static_cast<float>(p.scale) * log2e;
    for (int64_t t = 0; t < count; t++) {
      const auto& [tile, out] = tiles[t];
      packRows(
          tile.count, tile.width, [&](int64_t i) { return tile.row[i]; }, static_cast<const Bf16*>(buffers[0]), D, q);
      transposeRows(tile, q, D, qT + t * tileRows * pairs(D));
      std::memset(out.o, 0, static_cast<size_t>(tileRows * E) * 4);
      for (int64_t i = 0; i < tileRows; i++) out.maxima[i] = tops[t * tileRows + i] = unseen, out.sums[i] = 0;
    }

    for (int64_t key = from; key < to; key += tileKeys) {
      const int64_t most = smaller(tileKeys, to - key);
      const auto row = [&](int64_t i) { return (batch * p.keys + key + i) * p.kvHeads + kvHead; };
      packRows(most, most, row, static_cast<const Bf16*>(buffers[1]), D, k);
      pairRows(most, row, values, p.valueInKey ? D : E, E, v);
      for (int64_t t = 0; t < count; t++) {
        const auto& [tile, out] = tiles[t];
        const uint32_t* tileQT = qT + t * tileRows * pairs(D);
        float* tileTops = tops + t * tileRows;
        forParts(tile, key, smaller(most, tile.end - key), [&](const Part& part) {
          const Left<uint32_t> left{k + (part.from - key) * rowPairs(D), rowPairs(D), 1};
          if (part.isMasked)
            score<true>(tile, part, pairs(D), left, tileQT, factor, scores, tileTops);
          else
            score<false>(tile, part, pairs(D), left, tileQT, factor, scores, tileTops);
          softmaxPart(part, scores, tileTops, decays, out);
          float* o = out.o + part.column;
          const auto decayed = [&](int64_t i, int64_t j) {
            return load(o + i * tileRows + j) * load(decays + part.column + j);
          };
          const Left<uint32_t> vT{v + (part.from - key) / 2 * padded(E), 1, padded(E)};
          product(E, part.width, pairs(part.to - part.from), vT, reinterpret_cast<uint32_t*>(scores) + part.column,
                  tileRows, decayed, To{o, tileRows});
        });
      }
    }
    for (int64_t t = 0; t < count; t++)
      for (int64_t i = 0; i < tileRows; i++) tiles[t].out.maxima[i] *= ln2;
  }

  // ---- Backward

  static constexpr bool scalesKeyGradient = true;

  struct RowTile {
    Tile tile;
    uint32_t *qT, *q, *doT, *dOut;  // transposed and paired
    float *dqT, *logsumexp, *delta;
  };
  static int64_t rowTileFloats(const AttentionParams& p) {
    const int64_t D = p.keyDim, E = p.valueDim;
    return tileRows * (pairs(D) + pairs(E) + D + 2) + tileRows / 2 * (padded(D) + padded(E));
  }
  static int64_t backwardFloats(const AttentionParams& p) {
    const int64_t D = p.keyDim, E = p.valueDim;
    return blockTiles * rowTileFloats(p) + tileRows * larger(rowPairs(D), rowPairs(E)) +
           tileKeys * (rowPairs(D) + padded(D) / 2 + rowPairs(E) + tileRows * 5 / 2) + tileRows;
  }

  static void packRowTile(const AttentionParams& p, void* const* buffers, Workspace& work, uint32_t* rows, RowTile& r) {
    const int64_t D = p.keyDim, E = p.valueDim;
    const auto row = [&](int64_t i) { return r.tile.row[i]; };
    const auto pack = [&](const void* x, int64_t dim, uint32_t*& transposed, uint32_t*& paired) {
      transposed = work.takePairs(tileRows * pairs(dim));
      paired = work.takePairs(tileRows / 2 * padded(dim));
      packRows(r.tile.count, r.tile.width, row, static_cast<const Bf16*>(x), dim, rows);
      transposeRows(r.tile, rows, dim, transposed);
      pairRows(r.tile.count, row, static_cast<const Bf16*>(x), dim, dim, paired);
    };
    pack(buffers[1], D, r.qT, r.q);
    pack(buffers[0], E, r.doT, r.dOut);
    r.dqT = work.take(tileRows * D);
    r.logsumexp = work.take(tileRows);
    r.delta = work.take(tileRows);
    std::memset(r.dqT, 0, static_cast<size_t>(tileRows * D) * 4);
    loadStatistics<Bf16>(p, r.tile, buffers, r.logsumexp, r.delta);
    for (int64_t i = 0; i < tileRows; i++) r.logsumexp[i] *= log2e;
  }

  // Probabilities [keys][tileRows], in fp32 and bf16.
  template <bool masked>
  static void probabilities(const RowTile& r, const Part& part, int64_t depth, Left<uint32_t> k, float factor,
                            float* weights, Bf16* rounded) {
    const auto finish = [&]<int rows, int vectors>(Sum(&sums)[rows][vectors], int64_t i, int64_t j)
        __attribute__((always_inline)) {
      for (int v = 0; v < vectors; v++) {
        const int64_t column = part.column + j + v * lanes;
        const Vec log = load(r.logsumexp + column);
        for (int n = 0; n < rows; n++) {
          Vec weight = exp2(sums[n][v] * factor - log);
          if (masked) weight = select(sees(r.tile, column, part.from + i + n), weight, Vec{});
          store(weights + (i + n) * tileRows + column, weight);
          store(rounded + (i + n) * tileRows + column, weight);
        }
      }
    };
    product(part.to - part.from, part.width, depth, k, r.qT + part.column, tileRows, zero, finish);
  }

  // ds without its factor scale, [keys][tileRows] and paired.
  static void slopes(const RowTile& r, const Part& part, int64_t depth, Left<uint32_t> v, const float* weights,
                     Bf16* rounded, uint32_t* paired) {
    const auto finish = [&]<int rows, int vectors>(Sum(&sums)[rows][vectors], int64_t i, int64_t j)
        __attribute__((always_inline)) {
      for (int v = 0; v < vectors; v++) {
        const int64_t column = part.column + j + v * lanes;
        const Vec delta = load(r.delta + column);
        const auto slope = [&](int n) {
          const int64_t at = (i + n) * tileRows + column;
          const Vec ds = load(weights + at) * (sums[n][v] - delta);
          store(rounded + at, ds);
          return ds;
        };
        for (int n = 0; n < rows; n += 2) {
          const Vec low = slope(n), high = n + 1 < rows ? slope(n + 1) : Vec{};
          storePairs(paired + (i + n) / 2 * tileRows + column, toPairs(low, high));
        }
      }
    };
    product(part.to - part.from, part.width, depth, v, r.doT + part.column, tileRows, zero, finish);
  }

  static void backward(const AttentionParams& p, int64_t batch, int64_t kvHead, int64_t fromRow, int64_t toRow,
                       void* const* buffers, Workspace work, float* dk, float* dv) {
    Bf16* dQuery = static_cast<Bf16*>(buffers[8]);
    const int64_t D = p.keyDim, E = p.valueDim;
    uint32_t* rows = work.takePairs(tileRows * larger(rowPairs(D), rowPairs(E)));
    uint32_t* k = work.takePairs(tileKeys * rowPairs(D));
    uint32_t* kPaired = work.takePairs(tileKeys / 2 * padded(D));
    uint32_t* v = work.takePairs(tileKeys * rowPairs(E));
    float* weights = work.take(tileKeys * tileRows);
    Bf16* rounded = reinterpret_cast<Bf16*>(work.take(tileKeys * tileRows / 2));
    Bf16* ds = reinterpret_cast<Bf16*>(work.take(tileKeys * tileRows / 2));
    uint32_t* dsPaired = work.takePairs(tileKeys / 2 * tileRows);
    float* factors = work.take(tileRows);
    const float factor = static_cast<float>(p.scale) * log2e;
    for (int64_t i = 0; i < tileRows; i++) factors[i] = static_cast<float>(p.scale);

    for (int64_t first = fromRow; first < toRow; first += blockTiles * tileRows) {
      RowTile tiles[blockTiles];
      int64_t count = 0, from = p.keys, to = 0;
      Workspace packed = work;
      for (int64_t row = first; row < smaller(toRow, first + blockTiles * tileRows); row += tileRows) {
        RowTile& r = tiles[count++];
        r.tile = tileAt(p, static_cast<const int32_t*>(buffers[6]), static_cast<const int32_t*>(buffers[7]), batch,
                        kvHead, row);
        packRowTile(p, buffers, packed, rows, r);
        from = smaller(from, r.tile.first);
        to = larger(to, r.tile.end);
      }
      for (int64_t key = from; key < to; key += tileKeys) {
        const int64_t most = smaller(tileKeys, to - key);
        const auto row = [&](int64_t i) { return (batch * p.keys + key + i) * p.kvHeads + kvHead; };
        packRows(most, most, row, static_cast<const Bf16*>(buffers[2]), D, k);
        pairRows(most, row, static_cast<const Bf16*>(buffers[2]), D, D, kPaired);
        packRows(most, most, row, static_cast<const Bf16*>(buffers[3]), E, v);
        for (int64_t t = 0; t < count; t++) {
          const RowTile& r = tiles[t];
          forParts(r.tile, key, smaller(most, r.tile.end - key), [&](const Part& part) {
            const int64_t offset = part.from - key, keys = part.to - part.from;
            const Left<uint32_t> left{k + offset * rowPairs(D), rowPairs(D), 1};
            if (part.isMasked)
              probabilities<true>(r, part, pairs(D), left, factor, weights, rounded);
            else
              probabilities<false>(r, part, pairs(D), left, factor, weights, rounded);
            slopes(r, part, pairs(E), {v + offset * rowPairs(E), rowPairs(E), 1}, weights, ds, dsPaired);

            const int64_t firstPair = part.column / 2;
            const int64_t depth = pairs(smaller(part.width, r.tile.count - part.column));
            const auto add = [&](const Bf16* x, const uint32_t* right, int64_t dim, float* sums) {
              const Left<uint32_t> rowsOfX{reinterpret_cast<const uint32_t*>(x) + firstPair, tileRows / 2, 1};
              addProduct(keys, padded(dim), depth, rowsOfX, right + firstPair * padded(dim), padded(dim),
                         sums + part.from * padded(dim), padded(dim));
            };
            if (dv) add(rounded, r.dOut, E, dv);
            if (dk) add(ds, r.q, D, dk);
            if (dQuery)
              addProduct(D, part.width, pairs(keys), Left<uint32_t>{kPaired + offset / 2 * padded(D), 1, padded(D)},
                         dsPaired + part.column, tileRows, r.dqT + part.column, tileRows);
          });
        }
      }
      for (int64_t t = 0; dQuery && t < count; t++) unpackTransposed(tiles[t].tile, tiles[t].dqT, D, factors, dQuery);
    }
  }
};

}  // namespace

}  // namespace HADAL_ISA
}  // namespace hadal
