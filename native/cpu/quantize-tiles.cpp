#include "ops/quantize-tiles.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Columns of one thread's share of tiles that are one column wide: a few whole cache lines of each row. 128 such rows are
// 64 KiB of fp32 numbers, which the second-level cache holds between both passes over them.
constexpr int64_t columnsAtOnce = 128;

HADAL_INLINE Vec magnitude(Vec x) { return reinterpret_cast<Vec>(reinterpret_cast<UVec>(x) & 0x7fffffffu); }

HADAL_INLINE Vec scaleOf(Vec largest, bool powerOfTwo) {
  const Vec scale = max(largest / 448.0f, splat(0x1p-126f));
  if (!powerOfTwo) return scale;
  return reinterpret_cast<Vec>((reinterpret_cast<UVec>(scale) + 0x7fffffu) & 0x7f800000u);
}

// Adding 1.5 · 2^(e + 20) to a number of exponent e leaves it room for three bits behind its first one. Below 2^-6, where
// E4M3's numbers are 2^-9 apart, e stays −6.
HADAL_INLINE Vec toE4m3(Vec x) {
  const Vec limited = min(splat(448.0f), max(splat(-448.0f), x));  // in this order NaN stays NaN
  const UVec exponent = reinterpret_cast<UVec>(limited) & 0x7f800000u, least = UVec{} + 0x3c800000u;
  const UVec raised = (exponent > least ? exponent : least) + (20u << 23);
  const Vec shift = reinterpret_cast<Vec>(raised | 0x400000u);
  return limited + shift - shift;
}

HADAL_INLINE Vec quantized(Vec x, Vec scale) { return toE4m3(x / scale) * scale; }

// One tile.
template <class X, class Y>
HADAL_INLINE void quantizeTile(const X* x, Y* y, int64_t stride, int64_t rows, int64_t columns, bool powerOfTwo) {
  Vec largest = {};
  for (int64_t i = 0; i < rows; i++)
    forLanes(columns, [&](int64_t j, auto part) { largest = max(magnitude(load(x + i * stride + j, part)), largest); });
  const Vec scale = scaleOf(splat(maximum(largest)), powerOfTwo);
  for (int64_t i = 0; i < rows; i++)
    forLanes(columns, [&](int64_t j, auto part) {
      store(y + i * stride + j, part, quantized(load(x + i * stride + j, part), scale));
    });
}

// Up to columnsAtOnce tiles that are one column wide, side by side, row by row: neighbours share cache lines.
template <class X, class Y>
HADAL_INLINE void quantizeColumns(const X* x, Y* y, int64_t stride, int64_t rows, int64_t columns, bool powerOfTwo) {
  float scales[columnsAtOnce] = {};  // first the largest
  for (int64_t i = 0; i < rows; i++)
    forLanes(columns, [&](int64_t j, auto part) {
      store(scales + j, part, max(magnitude(load(x + i * stride + j, part)), load(scales + j, part)));
    });
  forLanes(columns,
           [&](int64_t j, auto part) { store(scales + j, part, scaleOf(load(scales + j, part), powerOfTwo)); });
  for (int64_t i = 0; i < rows; i++)
    forLanes(columns, [&](int64_t j, auto part) {
      store(y + i * stride + j, part, quantized(load(x + i * stride + j, part), load(scales + j, part, 1)));
    });
}

HADAL_INLINE int64_t workspaceBytes(const QuantizeTilesParams& p, int) { return (p.groups + 1) * 8; }

HADAL_INLINE int64_t beginOf(const QuantizeTilesParams& p, const int32_t* offsets, int64_t group) {
  return offsets ? offsets[group] : p.rows / p.groups * group;
}

// firstStripe[e]: rows of tiles before group e. Fails where a group does not lie within the rows, after the one before it.
bool countStripes(const QuantizeTilesParams& p, const int32_t* offsets, int64_t* firstStripe, RunContext& context) {
  firstStripe[0] = 0;
  if (offsets && (offsets[0] < 0 || offsets[0] > p.rows)) {
    context.fail("[quantize-tiles] expected offsets[0] in 0..%lld, got %d", static_cast<long long>(p.rows), offsets[0]);
    return false;
  }
  for (int64_t e = 0; e < p.groups; e++) {
    const int64_t begin = beginOf(p, offsets, e), end = beginOf(p, offsets, e + 1);
    if (end < begin || end > p.rows) {
      context.fail("[quantize-tiles] expected offsets[%lld] in %lld..%lld, got %lld", static_cast<long long>(e + 1),
                   static_cast<long long>(begin), static_cast<long long>(p.rows), static_cast<long long>(end));
      return false;
    }
    firstStripe[e + 1] = firstStripe[e] + (end - begin + p.tileRows - 1) / p.tileRows;
  }
  return true;
}

template <class X, class Y>
void run(const QuantizeTilesParams& p, const X* x, const int32_t* offsets, Y* y, RunContext& context) {
  int64_t* firstStripe = static_cast<int64_t*>(context.workspace);
  if (!countStripes(p, offsets, firstStripe, context)) return;
  const bool areColumns = p.tileColumns == 1, powerOfTwo = p.powerOfTwo != 0;
  const int64_t width = areColumns ? columnsAtOnce : p.tileColumns;
  const int64_t parts = (p.columns + width - 1) / width, grain = 1 + 16384 / (p.tileRows * width);
  parallelFor(firstStripe[p.groups] * parts, context.threads, grain, [&](int64_t begin, int64_t end, int) {
    int64_t group = 0, stripe = begin / parts, part = begin % parts;
    for (int64_t item = begin; item < end; item++) {
      while (firstStripe[group + 1] <= stripe) group++;
      const int64_t row = beginOf(p, offsets, group) + (stripe - firstStripe[group]) * p.tileRows;
      const int64_t rowsLeft = beginOf(p, offsets, group + 1) - row, columnsLeft = p.columns - part * width;
      const int64_t rows = rowsLeft < p.tileRows ? rowsLeft : p.tileRows;
      const int64_t columns = columnsLeft < width ? columnsLeft : width, at = row * p.columns + part * width;
      if (areColumns)
        quantizeColumns(x + at, y + at, p.columns, rows, columns, powerOfTwo);
      else
        quantizeTile(x + at, y + at, p.columns, rows, columns, powerOfTwo);
      if (++part == parts) part = 0, stripe++;
    }
  });
}

void start(const QuantizeTilesParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtypeX, [&](auto from) {
    dispatch(p.dtypeY, [&](auto to) {
      run(p, static_cast<const decltype(from)*>(buffers[0]), static_cast<const int32_t*>(buffers[1]),
          static_cast<decltype(to)*>(buffers[2]), context);
    });
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(quantizeTiles, QuantizeTilesParams, start, workspaceBytes)

}  // namespace HADAL_ISA
}  // namespace hadal
