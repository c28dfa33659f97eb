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

// ---- Loading and storing tiles

template <class T>
HADAL_INLINE void loadTile(float* to, const T* from, int64_t stride, int64_t n) {
  if (stride == 1) {
    forLanes(n, [&](int64_t i, auto part) { store(to + i, part, load(from + i, part)); });
  } else if (stride == 0) {
    const float x = toFloat(*from);
    for (int64_t i = 0; i < n; i++) to[i] = x;
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = toFloat(from[i * stride]);
  }
}

HADAL_INLINE void loadIntegers(float* to, const int32_t* from, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = static_cast<float>(from[i * stride]);
}

HADAL_INLINE void loadAny(float* to, const void* from, DType type, int64_t at, int64_t stride, int64_t n) {
  if (type == DType::int32) return loadIntegers(to, static_cast<const int32_t*>(from) + at, stride, n);
  dispatch(type, [&](auto zero) { loadTile(to, static_cast<const decltype(zero)*>(from) + at, stride, n); });
}

HADAL_INLINE void storeAny(void* to, DType type, int64_t at, const float* from, int64_t n) {
  if (type == DType::int32) {
    for (int64_t i = 0; i < n; i++) static_cast<int32_t*>(to)[at + i] = static_cast<int32_t>(from[i]);
    return;
  }
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    T* out = static_cast<T*>(to) + at;
    forLanes(n, [&](int64_t i, auto part) { store(out + i, part, load(from + i, part)); });
  });
}

// ---- Opcodes. A tile is computed in whole vectors: lanes past n hold numbers that nobody reads.

template <class F>
HADAL_INLINE void unary(float* to, const float* x, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += lanes) store(to + i, f(load(x + i)));
}
template <class F>
HADAL_INLINE void unaryScalar(float* to, const float* x, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i++) to[i] = f(x[i]);
}
template <class F>
HADAL_INLINE void binary(float* to, const float* x, const float* y, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += lanes) store(to + i, f(load(x + i), load(y + i)));
}

HADAL_INLINE Vec truth(IVec mask) { return select(mask, splat(1.0f), Vec{}); }

HADAL_INLINE Vec geluTanh(Vec x) { return 0.5f * x * (1.0f + tanh(0.7978845608028654f * (x + 0.044715f * x * x * x))); }

// `to` may be the memory of an operand.
HADAL_INLINE void apply(Op op, float* to, const float* x, const float* y, const float* z, int64_t n) {
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
    case Op::erf: return unaryScalar(to, x, n, [](float a) { return std::erf(a); });
    case Op::relu: return unary(to, x, n, [](Vec a) { return select(a < 0.0f, Vec{}, a); });
    case Op::sin: return unaryScalar(to, x, n, [](float a) { return std::sin(a); });
    case Op::cos: return unaryScalar(to, x, n, [](float a) { return std::cos(a); });
    case Op::floor: return unaryScalar(to, x, n, [](float a) { return std::floor(a); });
    case Op::isFinite: return unary(to, x, n, [](Vec a) { return truth(a - a == 0.0f); });
    case Op::identity: return unary(to, x, n, [](Vec a) { return a; });
    case Op::where:
      for (int64_t i = 0; i < n; i += lanes) store(to + i, select(load(x + i) != 0.0f, load(y + i), load(z + i)));
      return;
    case Op::pushInput:
    case Op::pushConstant: return;
  }
  // clang-format on
}

// Offset of the innermost row `row` in input n.
HADAL_INLINE int64_t rowOffset(const ElementwiseParams& p, int64_t n, int64_t row) {
  int64_t offset = p.offsets[n];
  for (int64_t d = p.rank - 2; d >= 0; d--) {
    offset += row % p.dims[d] * p.strides[n * elementwiseRank + d];
    row /= p.dims[d];
  }
  return offset;
}

// Elements [at, at + n) of the output, which lie in one innermost row. Whole vectors of contiguous fp32 are read where they
// lie, and the last opcode writes them where they belong: an expression of one opcode is then a plain loop over memory.
HADAL_INLINE void computeTile(const ElementwiseParams& p, void* const* buffers, int64_t row, int64_t column, int64_t at,
                              int64_t n) {
  alignas(64) float tiles[elementwiseStack][tile];
  const float* operands[elementwiseStack + 2] = {};  // two more: an opcode is given three, however many it takes
  const bool isWhole = n % lanes == 0;
  float* const out =
      isWhole && p.outputType == DType::fp32 ? static_cast<float*>(buffers[elementwiseInputs + 1]) + at : nullptr;
  int depth = 0;
  for (int64_t c = 0; c < p.codeBytes;) {
    const uint8_t op = p.code[c++];
    if (op == static_cast<uint8_t>(Op::pushInput)) {
      const int64_t input = p.code[c++], stride = p.strides[input * elementwiseRank + p.rank - 1];
      const int64_t from = rowOffset(p, input, row) + column * stride;
      const bool isDirect = isWhole && stride == 1 && p.inputTypes[input] == DType::fp32;
      if (!isDirect) loadAny(tiles[depth], buffers[input], p.inputTypes[input], from, stride, n);
      operands[depth] = isDirect ? static_cast<const float*>(buffers[input]) + from : tiles[depth];
      depth++;
    } else if (op == static_cast<uint8_t>(Op::pushConstant)) {
      const float constant = static_cast<float>(p.constants[p.code[c++]]);
      for (int64_t i = 0; i < n; i++) tiles[depth][i] = constant;
      operands[depth] = tiles[depth];
      depth++;
    } else {
      depth -= ElementwiseParams::arity(op) - 1;
      float* to = c == p.codeBytes && out ? out : tiles[depth - 1];
      const float* const* from = operands + depth - 1;
      apply(static_cast<Op>(op), to, from[0], from[1], from[2], n);
      operands[depth - 1] = to;
    }
  }
  if (operands[0] != out) storeAny(buffers[elementwiseInputs + 1], p.outputType, at, operands[0], n);
}

// Bits are copied as they are, so that int32 beyond 2^24 survive transposes and slices.
template <class T>
HADAL_INLINE void copyRow(T* to, const T* from, int64_t stride, int64_t n) {
  if (stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];
  }
}

HADAL_INLINE void copyTile(const ElementwiseParams& p, void* const* buffers, int64_t row, int64_t column, int64_t at,
                           int64_t n) {
  const int64_t stride = p.strides[p.rank - 1], from = rowOffset(p, 0, row) + column * stride;
  void* out = buffers[elementwiseInputs + 1];
  if (bytesOf(p.outputType) == 4) {
    copyRow(static_cast<uint32_t*>(out) + at, static_cast<const uint32_t*>(buffers[0]) + from, stride, n);
  } else {
    copyRow(static_cast<uint16_t*>(out) + at, static_cast<const uint16_t*>(buffers[0]) + from, stride, n);
  }
}

void run(const ElementwiseParams& p, void* const* buffers, RunContext& context) {
  int64_t count = p.size();
  if (const auto* extent = static_cast<const int32_t*>(buffers[elementwiseInputs])) {
    const int64_t rows = p.rowElements > 0 ? count / p.rowElements : 0;
    if (*extent < 0 || *extent > rows) return context.fail("[elementwise] extent %d is out of range", *extent);
    count = *extent * p.rowElements;
  }
  const bool copies = p.codeBytes == 2 && p.code[0] == 0 && p.code[1] == 0 && p.inputTypes[0] == p.outputType;
  const int64_t inner = p.dims[p.rank - 1], step = copies ? inner : tile;
  parallelFor(count, context.threads, 16384, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end;) {
      const int64_t row = at / inner, column = at % inner;
      int64_t n = inner - column < end - at ? inner - column : end - at;
      if (n > step) n = step;
      if (copies) {
        copyTile(p, buffers, row, column, at, n);
      } else {
        computeTile(p, buffers, row, column, at, n);
      }
      at += n;
    }
  });
}

}  // namespace

HADAL_KERNEL(elementwise, ElementwiseParams, run)

}  // namespace HADAL_ISA
}  // namespace hadal
