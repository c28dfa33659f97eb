// Attention's tiles in fp32, whatever the dtype in memory: for fp32, fp16 and machines without products of bf16 pairs.
#pragma once
#include "cpu/attention-product.h"
#include "cpu/attention-tiles.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

template <class T>
struct Fp32Tiles {
  using Number = T;

  // out[d][i] = factor · x[row i][d]
  static void packTransposed(const Tile& tile, const T* x, int64_t dim, float factor, float* out) {
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

  // Rows as they are, each padded with zeros to whole vectors: out[i][d] = factor · x[row i][d]
  template <class Row>
  HADAL_INLINE static void packRows(int64_t count, Row&& row, const T* x, int64_t dim, float factor, float* out) {
    for (int64_t i = 0; i < count; i++)
      forLanes(dim, [&](int64_t d, auto part) {
        store(out + i * padded(dim) + d, load(x + row(i) * dim + d, part) * factor);
      });
  }

  // ---- Forward

  static int64_t forwardFloats(const AttentionParams& p) {
    return tileRows * (p.keyDim + tileKeys) + tileKeys * (padded(p.keyDim) + padded(p.valueDim));
  }

  // Running softmax over one tile of scores: turns scores into e^(s − maximum), rescales sums and outputs to the new
  // maximum.
  template <bool masked>
  static void softmaxTile(const Tile& tile, int64_t key, int64_t keys, float* scores, const Partial& out, int64_t dim) {
    for (int64_t column = 0; column < tile.width; column += lanes) {
      const Vec before = load(out.maxima + column);
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
      store(out.maxima + column, top);
      store(out.sums + column, load(out.sums + column) * decay + total);
      for (int64_t d = 0; d < dim; d++) {
        float* at = out.o + d * tileRows + column;
        store(at, load(at) * decay);
      }
    }
  }

  static void forward(const AttentionParams& p, const QueryTile* tiles, int64_t count, int64_t batch, int64_t kvHead,
                      int64_t from, int64_t to, void* const* buffers, Workspace work) {
    const int64_t D = p.keyDim, E = p.valueDim;
    float* q = work.take(tileRows * D);
    float* scores = work.take(tileRows * tileKeys);
    float* k = work.take(tileKeys * padded(D));
    float* v = p.valueInKey ? k : work.take(tileKeys * padded(E));
    const int64_t vRow = p.valueInKey ? padded(D) : padded(E);
    for (const QueryTile* t = tiles; t < tiles + count; t++) {
      const Tile& tile = t->tile;
      const Partial& out = t->out;
      packTransposed(tile, static_cast<const T*>(buffers[0]), D, static_cast<float>(p.scale), q);
      std::memset(out.o, 0, static_cast<size_t>(tileRows * E) * 4);
      for (int64_t i = 0; i < tileRows; i++) out.maxima[i] = lowest, out.sums[i] = 0;

      const int64_t end = smaller(to, tile.end);
      for (int64_t key = larger(from, tile.first); key < end; key += tileKeys) {
        const int64_t keys = smaller(tileKeys, end - key);
        const auto row = [&](int64_t i) { return (batch * p.keys + key + i) * p.kvHeads + kvHead; };
        packRows(keys, row, static_cast<const T*>(buffers[1]), D, 1, k);
        if (!p.valueInKey) packRows(keys, row, static_cast<const T*>(buffers[2]), E, 1, v);
        product(keys, tile.width, D, Left{k, padded(D), 1}, q, tileRows, zero, To{scores, tileRows});
        if (tile.isMasked(key, keys))
          softmaxTile<true>(tile, key, keys, scores, out, E);
        else
          softmaxTile<false>(tile, key, keys, scores, out, E);
        addProduct(E, tile.width, keys, Left{v, 1, vRow}, scores, tileRows, out.o, tileRows);
      }
    }
  }

  // ---- Backward

  static constexpr bool scalesKeyGradient = false;  // the queries are scaled instead
  static int64_t backwardFloats(const AttentionParams& p) {
    const int64_t D = padded(p.keyDim), E = padded(p.valueDim);
    return tileRows * (3 * D + 2 * E + 2 * tileKeys + 3) + tileKeys * (D + E);
  }

  // Scores become p, products do·vᵀ become ds without its factor scale.
  template <bool masked>
  static void softmaxBackwardTile(const Tile& tile, int64_t key, int64_t keys, float* scores, float* slopes,
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

  static void backward(const AttentionParams& p, int64_t batch, int64_t kvHead, int64_t fromRow, int64_t toRow,
                       void* const* buffers, Workspace work, float* dk, float* dv) {
    const T* dOut = static_cast<const T*>(buffers[0]);
    T* dQuery = static_cast<T*>(buffers[8]);
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
    for (int64_t i = 0; i < tileRows; i++) factors[i] = static_cast<float>(p.scale);

    for (int64_t first = fromRow; first < toRow; first += tileRows) {
      const Tile tile = tileAt(p, static_cast<const int32_t*>(buffers[6]), static_cast<const int32_t*>(buffers[7]),
                               batch, kvHead, first);
      const auto tileRow = [&](int64_t i) { return tile.row[i]; };
      packTransposed(tile, static_cast<const T*>(buffers[1]), p.keyDim, static_cast<float>(p.scale), qT);
      packTransposed(tile, dOut, p.valueDim, 1, doT);
      packRows(tile.count, tileRow, static_cast<const T*>(buffers[1]), p.keyDim, static_cast<float>(p.scale), q);
      packRows(tile.count, tileRow, dOut, p.valueDim, 1, dOutRows);
      std::memset(dqT, 0, static_cast<size_t>(tileRows * D) * 4);
      loadStatistics<T>(p, tile, buffers, logsumexp, delta);

      for (int64_t key = tile.first; key < tile.end; key += tileKeys) {
        const int64_t keys = smaller(tileKeys, tile.end - key);
        const auto row = [&](int64_t i) { return (batch * p.keys + key + i) * p.kvHeads + kvHead; };
        packRows(keys, row, static_cast<const T*>(buffers[2]), p.keyDim, 1, k);
        packRows(keys, row, static_cast<const T*>(buffers[3]), p.valueDim, 1, v);
        product(keys, tile.width, p.keyDim, Left{k, D, 1}, qT, tileRows, zero, To{scores, tileRows});
        product(keys, tile.width, p.valueDim, Left{v, E, 1}, doT, tileRows, zero, To{slopes, tileRows});
        if (tile.isMasked(key, keys))
          softmaxBackwardTile<true>(tile, key, keys, scores, slopes, logsumexp, delta);
        else
          softmaxBackwardTile<false>(tile, key, keys, scores, slopes, logsumexp, delta);
        if (dv) addProduct(keys, E, tile.count, Left{scores, tileRows, 1}, dOutRows, E, dv + key * E, E);
        if (dk) addProduct(keys, D, tile.count, Left{slopes, tileRows, 1}, q, D, dk + key * D, D);
        if (dQuery) addProduct(p.keyDim, tile.width, keys, Left{k, 1, D}, slopes, tileRows, dqT, tileRows);
      }
      if (dQuery) unpackTransposed(tile, dqT, p.keyDim, factors, dQuery);
    }
  }
};

}  // namespace

}  // namespace HADAL_ISA
}  // namespace hadal
