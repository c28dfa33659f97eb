// Formulas, shapes, bytes: native/ops/elementwise.h. A thread interprets the whole expression for eight consecutive numbers: what
// decoding costs is shared by them, and 16 bytes of each input are under way. The top of the stack is in registers, the others
// in shared memory, 8 KB a level, where a thread has its own places. Expressions that only copy have kernels of their own.
#include "ops/elementwise.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace elementwise_kernels {

constexpr int n = 8;
using Op = ElementwiseOp;

// ---- What kernels get, by value: indexed in the memory of parameters, never copied

enum class Walk : int32_t {
  dense,     // as the output lies
  single,    // one number
  rows,      // eight numbers lie in one row, at one stride
  elements,  // each has its own place
};
struct Input {
  const void* data;
  DType type;
  int64_t offset;
  int64_t strides[elementwiseRank] = {};
  Walk walk = Walk::dense;
  bool isWide = false;
};
struct Extent {
  const int32_t* extent;
  int64_t rowElements, count;
};
struct Expression {
  Input inputs[elementwiseInputs];
  Divider dims[elementwiseRank];
  Extent extent;
  void* out;
  float constants[elementwiseConstants];
  int rank, codeBytes;
  DType outputType;
  bool isWide;
  uint8_t code[elementwiseCode];
};

// How many elements are wanted; 0 where the extent is wrong.
__device__ __forceinline__ int64_t countOf(const Extent& e, FaultSite faults) {
  if (!e.extent) return e.count;
  const int64_t used = *e.extent;
  if (used >= 0 && used * e.rowElements <= e.count && (e.rowElements > 0 || used == 0)) return used * e.rowElements;
  faults.report(used);
  return 0;
}

// ---- Functions of one number

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// GELU, Hendrycks & Gimpel 2016, arXiv:1606.08415: x (1 + tanh(u)) / 2 = x · sigmoid(2u), u = sqrt(2/π) (x + 0.044715 x³).
constexpr float geluLinear = 1.5957691216057308f, geluCubic = 0.07135481627159855f;  // of 2u
__device__ __forceinline__ float gelu(float x) { return x * sigmoid(x * (geluLinear + geluCubic * (x * x))); }

// gate + x · gate · (1 − gate) · (2u)', gate = sigmoid(2u). Beyond ±10 it is 0 or 1; up to there e^(−2u) and what it makes
// stay finite, and 1 − gate is e^(−2u) · gate, without cancellation. NaN stays NaN.
__device__ __forceinline__ float geluSlope(float given) {
  const float x = given > 10.0f ? 10.0f : given < -10.0f ? -10.0f : given, square = x * x;
  const float e = expf(-x * (geluLinear + geluCubic * square)), gate = 1.0f / (1.0f + e);
  return gate + x * gate * (e * gate) * (geluLinear + 3.0f * geluCubic * square);
}

// Sine (quarter 0) or cosine (quarter 1) of any number, to about an ulp. The library's functions keep an array in local memory.
// Payne & Hanek 1983: x = m · 2^e turns x · 2/π mod 4 into a product of m with those 96 bits of 2/π that count.
__device__ float sineOf(float x, int quarter) {
  const uint32_t bits = __float_as_uint(x) & 0x7fffffffu;
  float r = x;
  if (bits >= 0x7f800000u) return x - x;
  if (bits > 0x3f490fdbu) {  // π/4
    const uint32_t m = (bits & 0x7fffffu) | 0x800000u, start = (bits >> 23) - 120, word = start / 32,
                   shift = start % 32;
    // Words word … word + 3 of 2/π, before whose point there are 32 zeros.
    const auto at = [](uint32_t i) {
      const uint32_t early = i == 0 ? 0u : i == 1 ? 0xa2f9836eu : i == 2 ? 0x4e441529u : 0xfc2757d1u;
      const uint32_t late = i == 4 ? 0xf534ddc0u : i == 5 ? 0xdb629599u : i == 6 ? 0x3c439041u : 0xfe5163abu;
      return i < 4 ? early : late;
    };
    const uint64_t first = uint64_t{at(word)} << 32 | at(word + 1),
                   second = uint64_t{at(word + 1)} << 32 | at(word + 2),
                   third = uint64_t{at(word + 2)} << 32 | at(word + 3);
    const uint32_t high = static_cast<uint32_t>(first >> (32 - shift)),
                   middle = static_cast<uint32_t>(second >> (32 - shift)),
                   low = static_cast<uint32_t>(third >> (32 - shift));
    // The product's upper 64 of 96 bits: two of whole quarters, the others a fraction, taken as signed.
    const uint64_t quarters = (uint64_t{m * high} << 32) + uint64_t{m} * middle + (uint64_t{m} * low >> 32);
    const int64_t fraction = static_cast<int64_t>(quarters << 2);
    int turns = static_cast<int>(quarters >> 62) + (fraction < 0 ? 1 : 0);
    r = static_cast<float>(static_cast<double>(fraction) * 8.515303950216386e-20);  // π/2 · 2^-64
    if (x < 0) r = -r, turns = -turns;
    quarter += turns;
  }
  const float square = r * r;
  float y;
  if (quarter & 1) {  // Taylor's series: the next term is below 2e-10
    y = fmaf(square, -2.7557319e-7f, 2.4801587e-5f);
    y = fmaf(fmaf(y, square, -1.3888889e-3f), square, 4.1666668e-2f);
    y = fmaf(fmaf(y, square, -0.5f), square, 1.0f);
  } else {
    y = fmaf(fmaf(square, 2.7557319e-6f, -1.9841270e-4f), square, 8.3333333e-3f);
    y = fmaf(fmaf(y, square, -0.16666667f) * square, r, r);
  }
  return quarter & 2 ? -y : y;
}

// ---- Opcodes, of eight numbers at a time

template <class F>
__device__ __forceinline__ void each(float (&x)[n], F&& f) {
#pragma unroll
  for (int j = 0; j < n; j++) x[j] = f(x[j]);
}
// For long functions: their code is there once. Numbers move up in turn, so that their registers are known.
template <class F>
__device__ __forceinline__ void inTurn(float (&x)[n], F&& f) {
#pragma unroll 1
  for (int j = 0; j < n; j++) {
    const float y = f(x[0]);
#pragma unroll
    for (int k = 0; k + 1 < n; k++) x[k] = x[k + 1];
    x[n - 1] = y;
  }
}

__device__ __forceinline__ void applyUnary(Op op, float (&x)[n]) {
  // Rows of one table.
  // clang-format off
  switch (op) {
    case Op::negate: return each(x, [](float a) { return -a; });
    case Op::reciprocal: return inTurn(x, [](float a) { return 1.0f / a; });
    case Op::exp: return each(x, [](float a) { return expf(a); });
    case Op::log: return inTurn(x, [](float a) { return logf(a); });
    case Op::log1p: return inTurn(x, [](float a) { return log1pf(a); });
    case Op::sqrt: return inTurn(x, [](float a) { return sqrtf(a); });
    case Op::rsqrt: return inTurn(x, [](float a) { return 1.0f / sqrtf(a); });
    case Op::square: return each(x, [](float a) { return a * a; });
    case Op::abs: return each(x, [](float a) { return fabsf(a); });
    case Op::sign: return each(x, [](float a) { return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : a != a ? a : 0.0f; });
    case Op::sigmoid: return inTurn(x, [](float a) { return sigmoid(a); });
    case Op::tanh: return inTurn(x, [](float a) { return tanhf(a); });
    case Op::silu: return inTurn(x, [](float a) { return a * sigmoid(a); });
    case Op::gelu: return inTurn(x, [](float a) { return gelu(a); });
    case Op::geluSlope: return inTurn(x, [](float a) { return geluSlope(a); });
    case Op::erf: return inTurn(x, [](float a) { return erff(a); });
    case Op::relu: return each(x, [](float a) { return a < 0.0f ? 0.0f : a; });
    case Op::sin: return inTurn(x, [](float a) { return sineOf(a, 0); });
    case Op::cos: return inTurn(x, [](float a) { return sineOf(a, 1); });
    case Op::floor: return each(x, [](float a) { return floorf(a); });
    case Op::isFinite: return each(x, [](float a) { return a - a == 0.0f ? 1.0f : 0.0f; });
    default: return;  // identity
  }
  // clang-format on
}

// y becomes the result of x and y.
template <class F>
__device__ __forceinline__ void both(const float (&x)[n], float (&y)[n], F&& f) {
#pragma unroll
  for (int j = 0; j < n; j++) y[j] = f(x[j], y[j]);
}
__device__ __forceinline__ void applyBinary(Op op, const float (&x)[n], float (&y)[n]) {
  // clang-format off
  switch (op) {
    case Op::add: return both(x, y, [](float a, float b) { return a + b; });
    case Op::subtract: return both(x, y, [](float a, float b) { return a - b; });
    case Op::multiply: return both(x, y, [](float a, float b) { return a * b; });
    case Op::divide: return both(x, y, [](float a, float b) { return a / b; });
    // NaN in either operand stays NaN.
    case Op::maximum: return both(x, y, [](float a, float b) { return b != b || a < b ? b : a; });
    case Op::minimum: return both(x, y, [](float a, float b) { return b != b || a > b ? b : a; });
    case Op::equal: return both(x, y, [](float a, float b) { return a == b ? 1.0f : 0.0f; });
    case Op::less: return both(x, y, [](float a, float b) { return a < b ? 1.0f : 0.0f; });
    case Op::lessEqual: return both(x, y, [](float a, float b) { return a <= b ? 1.0f : 0.0f; });
    default: return;
  }
  // clang-format on
}

// ---- Inputs

// Where the input has element `at`.
__device__ __forceinline__ int64_t offsetOf(const Input& input, const Divider* dims, int rank, int64_t at) {
  int64_t offset = input.offset, index;
  for (int d = rank - 1; d >= 0; d--) {
    at = dims[d].divide(at, index);
    offset += index * input.strides[d];
  }
  return offset;
}

template <class T>
__device__ __forceinline__ void loadInput(const Expression& e, const Input& input, int64_t at, int64_t left,
                                          float (&x)[n]) {
  const T* const data = static_cast<const T*>(input.data);
  if (input.walk == Walk::dense) {
    loadNumbers(x, data + input.offset + at, left, input.isWide && left >= n);
  } else if (input.walk == Walk::single) {
    const float number = toFloat(data[input.offset]);
    each(x, [&](float) { return number; });
  } else if (input.walk == Walk::rows) {
    const T* row = data + offsetOf(input, e.dims, e.rank, at);
    const int64_t stride = input.strides[e.rank - 1];
    if (stride == 1) return loadNumbers(x, row, n, input.isWide);
    if (stride == 0) {
      const float number = toFloat(*row);
      return each(x, [&](float) { return number; });
    }
    inTurn(x, [&](float) {
      const float number = toFloat(*row);
      row += stride;
      return number;
    });
  } else {
    int64_t i = at;
    inTurn(x, [&](float) {
      const float number = i - at < left ? toFloat(data[offsetOf(input, e.dims, e.rank, i)]) : 0.0f;
      i++;
      return number;
    });
  }
}

// The levels of the stack below its top: two quads of a thread each, so that a warp's are 512 bytes in a row.
using Quad = Pack<float, 4>;
struct Stack {
  Quad* quads;
  __device__ __forceinline__ Quad& at(int level, int half) const {
    return quads[(level * 2 + half) * threads + static_cast<int>(threadIdx.x)];
  }
  __device__ __forceinline__ void store(int level, const float (&x)[n]) const {
#pragma unroll
    for (int half = 0; half < 2; half++)
      at(level, half) = {x[4 * half], x[4 * half + 1], x[4 * half + 2], x[4 * half + 3]};
  }
  __device__ __forceinline__ void load(int level, float (&x)[n]) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Quad quad = at(level, half);
#pragma unroll
      for (int j = 0; j < 4; j++) x[4 * half + j] = quad.at[j];
    }
  }
};
constexpr size_t levelBytes = 2 * sizeof(Quad) * threads;

// The output may be the memory of input 0: a thread's last opcode comes after all it reads.
__device__ void compute(const Expression& e, FaultSite faults) {
  const Stack stack{&shared<Quad>()};
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * n,
                left = countOf(e.extent, faults) - at;
  if (left <= 0) return;
  float top[n] = {};
  int depth = 0;
  for (int c = 0; c < e.codeBytes;) {
    const uint8_t op = e.code[c++];
    if (op <= static_cast<uint8_t>(Op::pushConstant)) {
      if (depth++ > 0) stack.store(depth - 2, top);
      const uint8_t which = e.code[c++];
      const Input& input = e.inputs[which % elementwiseInputs];
      if (op == static_cast<uint8_t>(Op::pushConstant)) {
        each(top, [&](float) { return e.constants[which]; });
      } else if (input.type == DType::fp32) {
        loadInput<float>(e, input, at, left, top);
      } else if (input.type == DType::bf16) {
        loadInput<Bf16>(e, input, at, left, top);
      } else if (input.type == DType::fp16) {
        loadInput<F16>(e, input, at, left, top);
      } else {
        loadInput<int32_t>(e, input, at, left, top);
      }
    } else if (ElementwiseParams::arity(op) == 1) {
      applyUnary(static_cast<Op>(op), top);
    } else if (ElementwiseParams::arity(op) == 2) {
      float x[n];
      stack.load(--depth - 1, x);
      applyBinary(static_cast<Op>(op), x, top);
    } else {  // where
      float condition[n], x[n];
      depth -= 2;
      stack.load(depth - 1, condition), stack.load(depth, x);
#pragma unroll
      for (int j = 0; j < n; j++) top[j] = condition[j] != 0.0f ? x[j] : top[j];
    }
  }
  if (e.outputType == DType::int32) {
#pragma unroll
    for (int j = 0; j < n; j++)
      if (j < left) static_cast<int32_t*>(e.out)[at + j] = static_cast<int32_t>(top[j]);
  } else {
    storeNumbers(e.out, e.outputType, at, left, e.isWide && left >= n, top);
  }
}

// Whether input k lies in memory as the output does.
bool isDense(const ElementwiseParams& p, int64_t k) {
  int64_t size = 1;
  for (int64_t d = p.rank - 1; d >= 0; d--) {
    if (p.dims[d] != 1 && p.strides[k * elementwiseRank + d] != size) return false;
    size *= p.dims[d];
  }
  return true;
}

Input inputOf(const ElementwiseParams& p, int64_t k, const void* data) {
  Input input{.data = data, .type = p.inputTypes[k], .offset = p.offsets[k]};
  const int64_t bytes = bytesOf(input.type), last = p.rank - 1;
  int64_t any = 0, beyondRow = input.offset;
  for (int64_t d = 0; d < p.rank; d++) {
    input.strides[d] = p.strides[k * elementwiseRank + d];
    any |= input.strides[d];
    if (d < last) beyondRow |= input.strides[d];
  }
  if (isDense(p, k))
    input.walk = Walk::dense;
  else if (any == 0)
    input.walk = Walk::single;
  else
    input.walk = p.dims[last] % n == 0 ? Walk::rows : Walk::elements;
  const int64_t steps = input.walk == Walk::dense ? input.offset : beyondRow;
  input.isWide = isAligned(data, 16) && steps * bytes % 16 == 0;
  return input;
}

int deepest(const ElementwiseParams& p) {
  int depth = 0, most = 0;
  for (int64_t c = 0; c < p.codeBytes;) {
    const uint8_t op = p.code[c++];
    if (op < 2) c++;
    depth += 1 - ElementwiseParams::arity(op);
    most = depth > most ? depth : most;
  }
  return most;
}

void runExpression(const ElementwiseParams& p, void* const* b, const Extent& extent, RunContext& context) {
  Expression e{};
  for (int64_t k = 0; k < p.inputs; k++) e.inputs[k] = inputOf(p, k, b[k]);
  for (int64_t d = 0; d < p.rank; d++) e.dims[d] = Divider(p.dims[d]);
  for (int i = 0; i < elementwiseConstants; i++) e.constants[i] = static_cast<float>(p.constants[i]);
  for (int i = 0; i < elementwiseCode; i++) e.code[i] = p.code[i];
  e.extent = extent, e.out = b[elementwiseInputs + 1], e.outputType = p.outputType;
  e.rank = static_cast<int>(p.rank), e.codeBytes = static_cast<int>(p.codeBytes);
  e.isWide = isAligned(e.out, 16);
  const int below = deepest(p) - 1, levels = below > 0 ? below : 1;
  launch<compute, threads, 5>(context, {.x = blocksFor(extent.count, threads * n), .sharedBytes = levels * levelBytes},
                              e, faultsOf(context));
}

// ---- Copies. Bits are moved as they are, so that int32 beyond 2^24 survive transposes and slices.

// Sizes, offset and strides in units of a copy, which is a thread's.
struct Copy {
  Input input;
  Extent extent;
  int rank;
  Divider dims[elementwiseRank] = {};
};

template <class Unit>
__device__ void copy(const Copy& c, Unit* out, FaultSite faults) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (at >= countOf(c.extent, faults)) return;
  out[at] = static_cast<const Unit*>(c.input.data)[offsetOf(c.input, c.dims, c.rank, at)];
}

template <class Unit>
void runCopy(const ElementwiseParams& p, void* const* b, const Extent& extent, RunContext& context) {
  const int64_t units = static_cast<int64_t>(sizeof(Unit)) / bytesOf(p.outputType), last = p.rank - 1;
  Copy c{.input = inputOf(p, 0, b[0]), .extent = extent, .rank = static_cast<int>(p.rank)};
  c.input.offset /= units, c.extent.rowElements /= units, c.extent.count /= units;
  for (int64_t d = 0; d < p.rank; d++) {
    c.dims[d] = Divider(d == last ? p.dims[d] / units : p.dims[d]);
    if (d < last) c.input.strides[d] /= units;
  }
  launch<copy<Unit>, threads>(context, {.x = blocksFor(c.extent.count, threads)}, c,
                              static_cast<Unit*>(b[elementwiseInputs + 1]), faultsOf(context));
}

// Transposes: some other dim than the innermost is dense in the input. A block moves a tile of 32×32 through shared memory, so
// that both sides are read and written along what is dense there. A row's pad of one keeps columns free of bank conflicts.
constexpr int tile = 32;
template <class Unit>
struct TileShared {
  Unit at[tile][tile + 1];
};
struct Transpose {
  Input input;  // its strides in the dims between are those of `outer`
  Divider outer[elementwiseRank] = {}, rowTiles = {}, columnTiles = {};
  int64_t outerSizes[elementwiseRank] = {};  // strides in the output
  int64_t rows = 0, columns = 0, fromStride = 0, toStride = 1, tiles = 0;
  int rank = 0;
};

template <class Unit>
__device__ void transpose(const Transpose& t, Unit* out) {
  auto& s = shared<TileShared<Unit>>();
  const int lane = static_cast<int>(threadIdx.x) % tile, line = static_cast<int>(threadIdx.x) / tile;
  int64_t columnTile, rowTile, index;
  int64_t rest = t.columnTiles.divide(blockIdx.x, columnTile);
  rest = t.rowTiles.divide(rest, rowTile);
  const Unit* from = static_cast<const Unit*>(t.input.data) + t.input.offset;
  for (int d = t.rank - 1; d >= 0; d--) {
    rest = t.outer[d].divide(rest, index);
    from += index * t.input.strides[d], out += index * t.outerSizes[d];
  }
  const int64_t row = rowTile * tile, column = columnTile * tile;
  for (int i = line; i < tile; i += threads / tile)
    if (row + lane < t.rows && column + i < t.columns) s.at[lane][i] = from[(column + i) * t.fromStride + row + lane];
  __syncthreads();
  for (int i = line; i < tile; i += threads / tile)
    if (row + i < t.rows && column + lane < t.columns) out[(row + i) * t.toStride + column + lane] = s.at[i][lane];
}

// The dim that is dense in input 0 where the innermost one is not, or -1.
int64_t crossedDim(const ElementwiseParams& p) {
  if (p.strides[p.rank - 1] < 2) return -1;
  for (int64_t d = 0; d < p.rank - 1; d++)
    if (p.strides[d] == 1 && p.dims[d] > 1) return d;
  return -1;
}

// False where there are more tiles than blocks.
template <class Unit>
bool runTranspose(const ElementwiseParams& p, int64_t crossed, void* const* b, RunContext& context) {
  const int64_t last = p.rank - 1;
  Transpose t{.input = inputOf(p, 0, b[0])};
  t.rows = p.dims[crossed], t.columns = p.dims[last], t.fromStride = p.strides[last];
  const int64_t rowTiles = (t.rows + tile - 1) / tile, columnTiles = (t.columns + tile - 1) / tile;
  t.rowTiles = Divider(rowTiles), t.columnTiles = Divider(columnTiles), t.tiles = rowTiles * columnTiles;
  int64_t size = 1;
  for (int64_t d = last, stride; d >= 0; d--) {
    stride = size, size *= p.dims[d];
    if (d == crossed) t.toStride = stride;
  }
  // The dims that are neither, outermost first.
  size = p.size();
  for (int64_t d = 0; d < last; d++) {
    size /= p.dims[d];
    if (d == crossed) continue;
    t.outer[t.rank] = Divider(p.dims[d]), t.outerSizes[t.rank] = size, t.input.strides[t.rank] = p.strides[d];
    t.tiles *= p.dims[d], t.rank++;
  }
  if (t.tiles > 0x7fffffff) return false;
  launch<transpose<Unit>, threads>(context,
                                   {.x = static_cast<unsigned>(t.tiles), .sharedBytes = sizeof(TileShared<Unit>)}, t,
                                   static_cast<Unit*>(b[elementwiseInputs + 1]));
  return true;
}

// Whether rows can be copied in units of 16 bytes.
bool isWideCopy(const ElementwiseParams& p, void* const* b, const Extent& extent) {
  const int64_t last = p.rank - 1;
  int64_t numbers = p.offsets[0] | p.dims[last];
  if (extent.extent) numbers |= extent.rowElements;
  for (int64_t d = 0; d < last; d++) numbers |= p.strides[d];
  return p.strides[last] == 1 && numbers * bytesOf(p.outputType) % 16 == 0 && isAligned(b[0], 16) &&
         isAligned(b[elementwiseInputs + 1], 16);
}

void run(const ElementwiseParams& p, void* const* b, RunContext& context) {
  const Extent extent{static_cast<const int32_t*>(b[elementwiseInputs]), p.rowElements, p.size()};
  if (extent.count == 0) return;
  const bool copies = p.codeBytes == 2 && p.code[0] == 0 && p.code[1] == 0 && p.inputTypes[0] == p.outputType;
  if (!copies) return runExpression(p, b, extent, context);
  const bool isShort = bytesOf(p.outputType) == 2;
  const int64_t crossed = extent.extent ? -1 : crossedDim(p);
  if (crossed >= 0 &&
      (isShort ? runTranspose<uint16_t>(p, crossed, b, context) : runTranspose<uint32_t>(p, crossed, b, context)))
    return;
  if (isWideCopy(p, b, extent)) return runCopy<Pack<uint32_t, 4>>(p, b, extent, context);
  isShort ? runCopy<uint16_t>(p, b, extent, context) : runCopy<uint32_t>(p, b, extent, context);
}

int64_t noWorkspace(const ElementwiseParams&, int) { return 0; }

void explain(const ElementwiseParams&, const Fault& fault, RunContext& context) {
  context.fail("[elementwise] extent %lld is out of range", static_cast<long long>(fault.numbers[0]));
}

}  // namespace elementwise_kernels

HADAL_KERNEL_WITH_FAULTS(elementwise, ElementwiseParams, elementwise_kernels::run, elementwise_kernels::noWorkspace,
                         elementwise_kernels::explain)

}  // namespace cuda
}  // namespace hadal
