#include "ops/elementwise.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Long enough that the interpreter's cost per opcode vanishes, short enough that a full stack (16 KB) stays in L1.
constexpr int64_t tile = 512;
static_assert(tile % 16 == 0);

using Op = ElementwiseOp;

// A tile, or (mask 0) one vector that stands for all of it.
struct Operand {
  const float* data;
  int64_t mask;
  HADAL_INLINE Vec vector(int64_t i) const { return load(data + (i & mask)); }
  HADAL_INLINE float number(int64_t i) const { return data[i & mask]; }
};

// ---- Loading and storing tiles

template <class T>
HADAL_INLINE void loadRow(float* to, const T* from, int64_t stride, int64_t n) {
  if (stride == 1) {
    forLanes(n, [&](int64_t i, auto part) {
      prefetch(from + i);
      store(to + i, part, load(from + i, part));
    });
  } else if (stride == 0) {
    const Vec x = splat(toFloat(*from));
    forLanes(n, [&](int64_t i, auto part) { store(to + i, part, x); });
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = toFloat(from[i * stride]);
  }
}
HADAL_INLINE void loadRow(float* to, const int32_t* from, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = static_cast<float>(from[i * stride]);
}

template <bool streams>
HADAL_INLINE void storeAny(void* to, DType type, int64_t at, const Operand& from, int64_t n) {
  if (type == DType::int32) {
    for (int64_t i = 0; i < n; i++) static_cast<int32_t*>(to)[at + i] = static_cast<int32_t>(from.number(i));
    return;
  }
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    T* out = static_cast<T*>(to) + at;
    forLanes(n, [&](int64_t i, auto part) { put<streams>(out + i, part, from.vector(i)); });
  });
}

// ---- Opcodes. A tile is computed in whole vectors: lanes past n hold numbers that nobody reads.

template <class F>
HADAL_INLINE void unary(float* to, const Operand& x, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += lanes) store(to + i, f(x.vector(i)));
}
template <class F>
HADAL_INLINE void unaryScalar(float* to, const Operand& x, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i++) to[i] = f(x.number(i));
}
template <class F>
HADAL_INLINE void binary(float* to, const Operand& x, const Operand& y, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += lanes) store(to + i, f(x.vector(i), y.vector(i)));
}

HADAL_INLINE Vec truth(IVec mask) { return select(mask, splat(1.0f), Vec{}); }

// GELU, Hendrycks & Gimpel 2016, arXiv:1606.08415: x (1 + tanh(u)) / 2 = x · sigmoid(2u), u = sqrt(2/π) (x + 0.044715 x³).
constexpr float geluLinear = 1.5957691216057308f, geluCubic = 0.07135481627159855f;  // of 2u

HADAL_INLINE Vec geluTanh(Vec x) { return x * sigmoid(x * (geluLinear + geluCubic * (x * x))); }

// gate + x · gate · (1 − gate) · (2u)', gate = sigmoid(2u). Beyond ±10 it is 0 or 1; up to there e^(−2u) and what it makes
// stay finite, and 1 − gate is e^(−2u) · gate, without cancellation.
HADAL_INLINE Vec geluSlope(Vec given) {
  const Vec x = min(splat(10.0f), max(splat(-10.0f), given)), square = x * x;  // in this order NaN stays NaN
  const Vec e = exp(-x * (geluLinear + geluCubic * square)), gate = 1.0f / (1.0f + e);
  return gate + x * gate * (e * gate) * (geluLinear + 3.0f * geluCubic * square);
}

// `to` may be the memory of an operand.
HADAL_INLINE void apply(Op op, float* to, const Operand& x, const Operand& y, const Operand& z, int64_t n) {
  // Rows of one table.
  // clang-format off
  switch (op) {
    case Op::add: return binary(to, x, y, n, [](Vec a, Vec b) { return a + b; });
    case Op::subtract: return binary(to, x, y, n, [](Vec a, Vec b) { return a - b; });
    case Op::multiply: return binary(to, x, y, n, [](Vec a, Vec b) { return a * b; });
    case Op::divide: return binary(to, x, y, n, [](Vec a, Vec b) { return a / b; });
    // NaN in either operand stays NaN.
    case Op::maximum: return binary(to, x, y, n, [](Vec a, Vec b) { return select(b != b, b, select(a < b, b, a)); });
    case Op::minimum: return binary(to, x, y, n, [](Vec a, Vec b) { return select(b != b, b, select(a > b, b, a)); });
    case Op::equal: return binary(to, x, y, n, [](Vec a, Vec b) { return truth(a == b); });
    case Op::less: return binary(to, x, y, n, [](Vec a, Vec b) { return truth(a < b); });
    case Op::lessEqual: return binary(to, x, y, n, [](Vec a, Vec b) { return truth(a <= b); });
    case Op::negate: return unary(to, x, n, [](Vec a) { return -a; });
    case Op::reciprocal: return unary(to, x, n, [](Vec a) { return 1.0f / a; });
    case Op::exp: return unary(to, x, n, [](Vec a) { return exp(a); });
    case Op::log: return unaryScalar(to, x, n, [](float a) { return std::log(a); });
    case Op::log1p: return unaryScalar(to, x, n, [](float a) { return std::log1p(a); });
    case Op::sqrt: return unaryScalar(to, x, n, [](float a) { return std::sqrt(a); });
    case Op::rsqrt: return unaryScalar(to, x, n, [](float a) { return 1.0f / std::sqrt(a); });
    case Op::square: return unary(to, x, n, [](Vec a) { return a * a; });
    case Op::abs: return unary(to, x, n, [](Vec a) { return select(a < 0.0f, -a, a); });
    case Op::sign:
      return unary(to, x, n, [](Vec a) { return select(a != a, a, truth(a > 0.0f) - truth(a < 0.0f)); });
    case Op::sigmoid: return unary(to, x, n, [](Vec a) { return sigmoid(a); });
    case Op::tanh: return unary(to, x, n, [](Vec a) { return tanh(a); });
    case Op::silu: return unary(to, x, n, [](Vec a) { return a * sigmoid(a); });
    case Op::gelu: return unary(to, x, n, [](Vec a) { return geluTanh(a); });
    case Op::geluSlope: return unary(to, x, n, [](Vec a) { return geluSlope(a); });
    case Op::erf: return unaryScalar(to, x, n, [](float a) { return std::erf(a); });
    case Op::relu: return unary(to, x, n, [](Vec a) { return select(a < 0.0f, Vec{}, a); });
    case Op::sin: return unaryScalar(to, x, n, [](float a) { return std::sin(a); });
    case Op::cos: return unaryScalar(to, x, n, [](float a) { return std::cos(a); });
    case Op::floor: return unaryScalar(to, x, n, [](float a) { return std::floor(a); });
    case Op::isFinite: return unary(to, x, n, [](Vec a) { return truth(a - a == 0.0f); });
    case Op::identity: return unary(to, x, n, [](Vec a) { return a; });
    case Op::where:
      for (int64_t i = 0; i < n; i += lanes) store(to + i, select(x.vector(i) != 0.0f, y.vector(i), z.vector(i)));
      return;
    case Op::pushInput:
    case Op::pushConstant: return;
  }
  // clang-format on
}

// ---- Where numbers lie. An innermost row is walked with one stride; the next row is found by counting as an odometer does.

struct RowWalk {
  int64_t index[elementwiseRank], offset;
};

HADAL_INLINE RowWalk walkFrom(const ElementwiseParams& p, int64_t n, int64_t row) {
  RowWalk walk;
  walk.offset = p.offsets[n];
  for (int64_t d = p.rank - 2; d >= 0; d--) {
    walk.index[d] = row % p.dims[d];
    walk.offset += walk.index[d] * p.strides[n * elementwiseRank + d];
    row /= p.dims[d];
  }
  return walk;
}
HADAL_INLINE void nextRow(const ElementwiseParams& p, int64_t n, RowWalk& walk) {
  for (int64_t d = p.rank - 2; d >= 0; d--) {
    const int64_t stride = p.strides[n * elementwiseRank + d];
    walk.offset += stride;
    if (++walk.index[d] < p.dims[d]) return;
    walk.offset -= stride * p.dims[d];
    walk.index[d] = 0;
  }
}

// Calls body(to, from, n) for the parts of rows that elements [at, at + count) of the output take from input n.
template <class Body>
HADAL_INLINE void forRowParts(const ElementwiseParams& p, int64_t n, int64_t at, int64_t count, Body&& body) {
  const int64_t inner = p.dims[p.rank - 1], stride = p.strides[n * elementwiseRank + p.rank - 1];
  RowWalk walk = walkFrom(p, n, at / inner);
  int64_t column = at % inner;
  for (int64_t done = 0; done < count;) {
    const int64_t left = count - done, part = inner - column < left ? inner - column : left;
    body(done, walk.offset + column * stride, part);
    done += part;
    column = 0;
    nextRow(p, n, walk);
  }
}

// Whether input n lies in memory as the output does.
HADAL_INLINE bool isDense(const ElementwiseParams& p, int64_t n) {
  int64_t size = 1;
  for (int64_t d = p.rank - 1; d >= 0; d--) {
    if (p.strides[n * elementwiseRank + d] != size) return false;
    size *= p.dims[d];
  }
  return true;
}

HADAL_INLINE void loadInput(const ElementwiseParams& p, const void* input, int64_t n, bool dense, int64_t at,
                            int64_t count, float* to) {
  const auto load = [&](const auto* from) {
    if (dense) return loadRow(to, from + p.offsets[n] + at, 1, count);
    const int64_t stride = p.strides[n * elementwiseRank + p.rank - 1];
    forRowParts(p, n, at, count,
                [&](int64_t done, int64_t offset, int64_t part) { loadRow(to + done, from + offset, stride, part); });
  };
  if (p.inputTypes[n] == DType::int32) return load(static_cast<const int32_t*>(input));
  dispatch(p.inputTypes[n], [&](auto zero) { load(static_cast<const decltype(zero)*>(input)); });
}

// Where elements [at, at + count) of fp32 input n lie one beside the other, else null.
HADAL_INLINE const float* inPlace(const ElementwiseParams& p, const void* input, int64_t n, bool dense, int64_t at,
                                  int64_t count) {
  if (p.inputTypes[n] != DType::fp32) return nullptr;
  const float* in = static_cast<const float*>(input);
  if (dense) return in + p.offsets[n] + at;
  const int64_t inner = p.dims[p.rank - 1], column = at % inner;
  if (p.strides[n * elementwiseRank + p.rank - 1] != 1 || column + count > inner) return nullptr;
  return in + walkFrom(p, n, at / inner).offset + column;
}

// Elements [at, at + n) of the output. Whole vectors of contiguous fp32 are read where they lie, and the last opcode writes
// them where they belong: an expression of one opcode is then a plain loop over memory.
template <bool streams>
HADAL_INLINE void computeTile(const ElementwiseParams& p, void* const* buffers, const bool* dense, int64_t at,
                              int64_t n) {
  alignas(64) float tiles[elementwiseStack][tile], constants[elementwiseStack][lanes];
  Operand operands[elementwiseStack + 2] = {};  // two more: an opcode is given three, however many it takes
  const bool isWhole = n % lanes == 0;
  float* const out = !streams && isWhole && p.outputType == DType::fp32
                         ? static_cast<float*>(buffers[elementwiseInputs + 1]) + at
                         : nullptr;
  int depth = 0;
  for (int64_t c = 0; c < p.codeBytes;) {
    const uint8_t op = p.code[c++];
    if (op == static_cast<uint8_t>(Op::pushInput)) {
      const int64_t input = p.code[c++];
      const float* from = isWhole ? inPlace(p, buffers[input], input, dense[input], at, n) : nullptr;
      if (!from) loadInput(p, buffers[input], input, dense[input], at, n, tiles[depth]);
      operands[depth] = {from ? from : tiles[depth], -1};
      depth++;
    } else if (op == static_cast<uint8_t>(Op::pushConstant)) {
      store(constants[depth], splat(static_cast<float>(p.constants[p.code[c++]])));
      operands[depth] = {constants[depth], 0};
      depth++;
    } else {
      depth -= ElementwiseParams::arity(op) - 1;
      float* to = c == p.codeBytes && out ? out : tiles[depth - 1];
      const Operand* from = operands + depth - 1;
      apply(static_cast<Op>(op), to, from[0], from[1], from[2], n);
      operands[depth - 1] = {to, -1};
    }
  }
  if (operands[0].data != out) storeAny<streams>(buffers[elementwiseInputs + 1], p.outputType, at, operands[0], n);
}

void compute(const ElementwiseParams& p, void* const* buffers, int64_t count, RunContext& context) {
  bool dense[elementwiseInputs] = {};
  int64_t bytes = count * bytesOf(p.outputType);
  bool writesOver = false;
  void* const out = buffers[elementwiseInputs + 1];
  for (int64_t n = 0; n < p.inputs; n++) {
    dense[n] = isDense(p, n);
    if (dense[n]) bytes += count * bytesOf(p.inputTypes[n]);
    writesOver = writesOver || buffers[n] == out;
  }
  streaming(bytes, !writesOver && canStream(out, tile * 2), [&](auto streams) {
    parallelFor((count + tile - 1) / tile, context.threads, 16384 / tile, [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin * tile; at < end * tile; at += tile)
        computeTile<streams.value>(p, buffers, dense, at, count - at < tile ? count - at : tile);
      if (streams.value) endStream();
    });
  });
}

// Bits are copied as they are, so that int32 beyond 2^24 survive transposes and slices.
template <class T>
HADAL_INLINE void copyRows(const ElementwiseParams& p, const void* in, void* out, int64_t at, int64_t count) {
  const int64_t stride = p.strides[p.rank - 1];
  forRowParts(p, 0, at, count, [&](int64_t done, int64_t offset, int64_t n) {
    T* to = static_cast<T*>(out) + at + done;
    const T* from = static_cast<const T*>(in) + offset;
    if (stride == 1) {
      copyShort(to, from, n * static_cast<int64_t>(sizeof(T)));
    } else if (stride == 0) {
      const T x = *from;
      for (int64_t i = 0; i < n; i++) to[i] = x;
    } else {
      for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];
    }
  });
}

// ---- Transposes: some other dim than the innermost is dense in the input. Tiles of both are moved through registers.

// Columns of a tile of `lanes` rows: a row of them fills a vector.
template <class T>
constexpr int64_t tileColumns = 4 / sizeof(T) * lanes;

// to[row · toStride + column] = from[column · fromStride + row]
HADAL_INLINE void transposeTile(uint32_t* to, int64_t toStride, const uint32_t* from, int64_t fromStride) {
  Vec x[lanes];
  for (int i = 0; i < lanes; i++) x[i] = load(reinterpret_cast<const float*>(from + i * fromStride));
  transpose(x);
  for (int i = 0; i < lanes; i++) store(reinterpret_cast<float*>(to + i * toStride), x[i]);
}
HADAL_INLINE void transposeTile(uint16_t* to, int64_t toStride, const uint16_t* from, int64_t fromStride) {
  const auto column = [&](int64_t i) { return widen(*reinterpret_cast<const HVec*>(from + i * fromStride)); };
  Vec x[lanes];  // of pairs of columns
  for (int i = 0; i < lanes; i++) x[i] = reinterpret_cast<Vec>(column(2 * i) | column(2 * i + 1) << 16);
  transpose(x);
  for (int i = 0; i < lanes; i++) store(reinterpret_cast<float*>(to + i * toStride), x[i]);
}

// The dim that is dense in input 0 where the innermost one is not, or -1.
HADAL_INLINE int64_t crossedDim(const ElementwiseParams& p) {
  if (p.strides[p.rank - 1] < 2) return -1;
  for (int64_t d = 0; d < p.rank - 1; d++)
    if (p.strides[d] == 1 && p.dims[d] > 1) return d;
  return -1;
}

template <class T>
void copyCrossed(const ElementwiseParams& p, int64_t crossed, const void* in, void* out, int threads) {
  constexpr int64_t stretch = 16 * tileColumns<T>;  // columns of a share of the work: 1 KB a row
  const int64_t last = p.rank - 1, rows = p.dims[crossed], columns = p.dims[last], fromStride = p.strides[last];
  const int64_t rowBlocks = (rows + lanes - 1) / lanes, stretches = (columns + stretch - 1) / stretch;
  int64_t toStride = 1, outer = 1;
  for (int64_t d = crossed + 1; d < p.rank; d++) toStride *= p.dims[d];
  for (int64_t d = 0; d < last; d++) outer *= d == crossed ? 1 : p.dims[d];

  parallelFor(outer * rowBlocks * stretches, threads, 1 + 16384 / (lanes * stretch),
              [&](int64_t begin, int64_t end, int) {
                for (int64_t i = begin; i < end; i++) {
                  const int64_t row = i / stretches % rowBlocks * lanes, start = i % stretches * stretch;
                  const T* from = static_cast<const T*>(in) + p.offsets[0] + row;
                  T* to = static_cast<T*>(out) + row * toStride;
                  int64_t rest = i / stretches / rowBlocks, size = columns;
                  for (int64_t d = last - 1; d >= 0; d--) {
                    if (d != crossed) {
                      from += rest % p.dims[d] * p.strides[d], to += rest % p.dims[d] * size;
                      rest /= p.dims[d];
                    }
                    size *= p.dims[d];
                  }
                  const int64_t height = rows - row < lanes ? rows - row : lanes;
                  const int64_t stop = columns - start < stretch ? columns : start + stretch;
                  int64_t column = start;
                  if (height == lanes)
                    for (; column + tileColumns<T> <= stop; column += tileColumns<T>)
                      transposeTile(to + column, toStride, from + column * fromStride, fromStride);
                  for (; column < stop; column++)
                    for (int64_t r = 0; r < height; r++) to[r * toStride + column] = from[column * fromStride + r];
                }
              });
}

template <class T>
void copy(const ElementwiseParams& p, const void* in, void* out, int64_t count, int threads) {
  const int64_t crossed = count == p.size() ? crossedDim(p) : -1;
  if (crossed >= 0) return copyCrossed<T>(p, crossed, in, out, threads);
  parallelFor(count, threads, 16384,
              [&](int64_t begin, int64_t end, int) { copyRows<T>(p, in, out, begin, end - begin); });
}

void run(const ElementwiseParams& p, void* const* buffers, RunContext& context) {
  int64_t count = p.size();
  if (const auto* extent = static_cast<const int32_t*>(buffers[elementwiseInputs])) {
    const int64_t rows = p.rowElements > 0 ? count / p.rowElements : 0;
    if (*extent < 0 || *extent > rows) return context.fail("[elementwise] extent %d is out of range", *extent);
    count = *extent * p.rowElements;
  }
  const bool copies = p.codeBytes == 2 && p.code[0] == 0 && p.code[1] == 0 && p.inputTypes[0] == p.outputType;
  if (!copies) return compute(p, buffers, count, context);
  void* const out = buffers[elementwiseInputs + 1];
  if (bytesOf(p.outputType) == 4)
    copy<uint32_t>(p, buffers[0], out, count, context.threads);
  else
    copy<uint16_t>(p, buffers[0], out, count, context.threads);
}

}  // namespace

HADAL_KERNEL(elementwise, ElementwiseParams, run)

}  // namespace HADAL_ISA
}  // namespace hadal
