#include "cpu/matmul.h"

#include "cpu/bf16-product.h"
#include "cpu/product-parts.h"
#include "ops/matmul.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// ---- The blocked product (Goto & van de Geijn 2008, doi:10.1145/1356052.1356053, with one block of c held in fp32).
// Factors are converted to fp32 while they are packed, so every mixture of dtypes is served.

// Register tile: 2 vectors wide, and as many rows as leave registers for the row of b and one element of a
// (32 registers with AVX-512, else 16).
constexpr int tileRows = lanes == 16 ? 12 : 6;
constexpr int tileColumns = 2 * lanes;
// Packed a (192 KiB), packed b (256 KiB) and the block of c (192 KiB) stay in a second-level cache of 1 MiB. The rows are a
// multiple of both tile heights and, like the depth, of every vector length.
constexpr int64_t blockRows = 192, blockColumns = 256, blockDepth = 256;
constexpr int64_t blockFloats = blockRows * blockDepth + blockDepth * blockColumns + blockRows * blockColumns;

// to[column · toStride + row] = from[row · fromStride + column] for lanes × lanes numbers, of which `rows` × `columns` are read
// and the rest are zeros.
template <class T>
HADAL_INLINE void transposeTile(const T* from, int64_t fromStride, int64_t rows, int64_t columns, float* to,
                                int64_t toStride) {
  Vec x[lanes];
  for (int i = 0; i < lanes; i++) {
    x[i] = i >= rows          ? Vec{}
           : columns >= lanes ? load(from + i * fromStride)
                              : loadPart(from + i * fromStride, columns);
  }
  transpose(x);
  for (int i = 0; i < lanes; i++) store(to + i * toStride, x[i]);
}

// A block of op(a): to[row · blockDepth + k], rows beyond the block up to a whole tile zero.
template <class T>
HADAL_INLINE void packA(const T* from, int64_t stride, bool transposed, int64_t rows, int64_t depth, float* to) {
  if (transposed) {
    for (int64_t i = 0; i < rows; i += lanes)
      for (int64_t k = 0; k < depth; k += lanes)
        transposeTile(from + k * stride + i, stride, depth - k, rows - i, to + i * blockDepth + k, blockDepth);
  } else {
    for (int64_t i = 0; i < rows; i++)
      forLanes(depth,
               [&](int64_t k, auto part) { store(to + i * blockDepth + k, part, load(from + i * stride + k, part)); });
  }
  for (int64_t i = rows; i % tileRows != 0; i++) std::memset(to + i * blockDepth, 0, blockDepth * sizeof(float));
}

// A block of op(b) in panels one tile wide: to[panel][k][column], columns beyond the block zero.
template <class T>
HADAL_INLINE void packB(const T* from, int64_t stride, bool transposed, int64_t depth, int64_t columns, float* to) {
  for (int64_t j = 0; j < columns; j += lanes) {
    float* panel = to + j / tileColumns * tileColumns * blockDepth + j % tileColumns;
    const int64_t width = columns - j;
    if (transposed) {
      for (int64_t k = 0; k < depth; k += lanes)
        transposeTile(from + j * stride + k, stride, width, depth - k, panel + k * tileColumns, tileColumns);
    } else if (width >= lanes) {
      for (int64_t k = 0; k < depth; k++) store(panel + k * tileColumns, load(from + k * stride + j));
    } else {
      for (int64_t k = 0; k < depth; k++) store(panel + k * tileColumns, loadPart(from + k * stride + j, width));
    }
    if (width <= lanes && j % tileColumns == 0)
      for (int64_t k = 0; k < depth; k++) store(panel + lanes + k * tileColumns, Vec{});
  }
}

// One register tile: c += a · b over the packed depth. The block's sum starts at zero, which keeps long sums accurate.
HADAL_INLINE void multiplyTile(const float* a, const float* b, float* c, int64_t depth) {
  Vec sums[tileRows][2] = {};
  for (int64_t k = 0; k < depth; k++) {
    const Vec left = load(b + k * tileColumns), right = load(b + k * tileColumns + lanes);
#pragma GCC unroll 16
    for (int i = 0; i < tileRows; i++) {
      const float x = a[i * blockDepth + k];
      sums[i][0] += x * left;
      sums[i][1] += x * right;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < tileRows; i++) {
    float* row = c + i * blockColumns;
    store(row, load(row) + sums[i][0]);
    store(row + lanes, load(row + lanes) + sums[i][1]);
  }
}

// One rectangle of c, by one thread.
void multiplyRectangle(const Product& p, int64_t rowBegin, int64_t rowEnd, int64_t columnBegin, int64_t columnEnd,
                       float* workspace) {
  float* a = workspace;
  float* b = a + blockRows * blockDepth;
  float* c = b + blockDepth * blockColumns;
  for (int64_t j = columnBegin; j < columnEnd; j += blockColumns) {
    const int64_t columns = columnEnd - j < blockColumns ? columnEnd - j : blockColumns;
    for (int64_t i = rowBegin; i < rowEnd; i += blockRows) {
      const int64_t rows = rowEnd - i < blockRows ? rowEnd - i : blockRows;
      std::memset(c, 0, blockRows * blockColumns * sizeof(float));
      for (int64_t k = 0; k < p.k; k += blockDepth) {
        const int64_t depth = p.k - k < blockDepth ? p.k - k : blockDepth;
        dispatch(p.a.dtype, [&](auto zero) {
          using T = decltype(zero);
          packA(static_cast<const T*>(elementOf(p.a, i, k)), p.a.stride, p.a.transposed, rows, depth, a);
        });
        dispatch(p.b.dtype, [&](auto zero) {
          using T = decltype(zero);
          packB(static_cast<const T*>(elementOf(p.b, k, j)), p.b.stride, p.b.transposed, depth, columns, b);
        });
        for (int64_t panel = 0; panel < columns; panel += tileColumns)
          for (int64_t tile = 0; tile < rows; tile += tileRows)
            multiplyTile(a + tile * blockDepth, b + panel * blockDepth, c + tile * blockColumns + panel, depth);
      }
      storeBlock(c, blockColumns, p, i, j, rows, columns);
    }
  }
}

void blockedProduct(const Product& p, int threads, void* workspace) {
  forEachRectangle(p.m, p.n, tileRows, tileColumns, threads,
                   [&](int64_t rowBegin, int64_t rowEnd, int64_t columnBegin, int64_t columnEnd, int thread) {
                     multiplyRectangle(p, rowBegin, rowEnd, columnBegin, columnEnd,
                                       static_cast<float*>(workspace) + thread * blockFloats);
                   });
}

// ---- Products whose c is fp32.

// oneDNN: what is added is put into c first, where it does not lie there already.
bool onednnWithAddend(const Product& p, int threads) {
  const Addend addend = addendOf(p);
  if (!addend.data) return onednnProduct(p);
  const bool isThere = addend.data == p.c && addend.stride == p.strideC && addend.dtype == p.dtypeC;
  if (!isThere)
    parallelFor(p.m, threads, 1 + 16384 / p.n,
                [&](int64_t begin, int64_t end, int) { storeBlock(nullptr, 0, p, begin, 0, end - begin, p.n); });
  Product sum = p;
  sum.accumulate = true;
  return onednnProduct(sum);
}

// Ours takes bf16 factors: measured beside oneDNN 2.6 on Zen 5, it is 5 to 20 % faster where c has 16 bits, and at 90 to 105 %
// where c is fp32, there without a pass for what is added. Not where oneDNN multiplies in tiles of the machine's (AMX).
HADAL_INLINE bool isOurs(const Product& p) { return bf16ProductTakes(p) && !onednnHasBf16Tiles(); }

bool fp32Product(const Product& p, int threads, void* workspace) {
  if (p.k == 0) return false;
  if (isOurs(p)) {
    bf16Product(p, threads, workspace);
    return true;
  }
  return onednnTakes(p.a.dtype, p.b.dtype) && onednnWithAddend(p, threads);
}

// ---- A 16-bit c of these: fp32 sums of some rows at a time, then converted. oneDNN would hold the sums of all rows, in
// memory that no plan knows of. At least 128 rows, since each call packs b anew.
HADAL_INLINE int64_t rowsAtATime(int64_t m, int64_t n) {
  const int64_t wanted = (int64_t{1} << 20) / (n + 1), rows = wanted < 128 ? 128 : wanted;
  return m < rows ? m : rows;
}

// The part of the workspace before the rows' sums.
HADAL_INLINE int64_t packingBytes(int threads) { return threads * bf16ProductWorkspace(); }

bool narrowProduct(const Product& p, int threads, void* workspace) {
  float* sums = reinterpret_cast<float*>(static_cast<char*>(workspace) + packingBytes(threads));
  const int64_t step = rowsAtATime(p.m, p.n);
  for (int64_t i = 0; i < p.m; i += step) {
    Product part = p;
    part.m = p.m - i < step ? p.m - i : step;
    part.a.data = elementOf(p.a, i, 0);
    part.c = sums;
    part.strideC = p.n;
    part.dtypeC = DType::fp32;
    part.accumulate = false;
    part.addend = {};
    // At the first rows or never: what is taken does not depend on the rows.
    if (!fp32Product(part, threads, workspace)) return false;
    parallelFor(part.m, threads, 1 + 16384 / p.n, [&](int64_t begin, int64_t end, int) {
      storeBlock(sums + begin * p.n, p.n, p, i + begin, 0, end - begin, p.n);
    });
  }
  return true;
}

}  // namespace

int64_t productWorkspace(int64_t m, int64_t n, DType dtypeC, int threads) {
  const int64_t blocked = threads * blockFloats * 4;
  const int64_t sums = dtypeC == DType::fp32 ? 0 : rowsAtATime(m, n) * n * 4;
  return blocked > packingBytes(threads) + sums ? blocked : packingBytes(threads) + sums;
}

void runProduct(const Product& p, int threads, void* workspace) {
  if (p.m == 0 || p.n == 0) return;
  if (isOurs(p)) return bf16Product(p, threads, workspace);
  if (p.dtypeC == DType::fp32 ? fp32Product(p, threads, workspace) : narrowProduct(p, threads, workspace)) return;
  blockedProduct(p, threads, workspace);
}

namespace {

int64_t matmulWorkspace(const MatmulParams& p, int threads) {
  // A batch that is spread over the threads needs one product's workspace for each of them.
  const int64_t together = productWorkspace(p.m, p.n, p.dtypeC, threads);
  const int64_t apart = p.batch > 1 ? threads * productWorkspace(p.m, p.n, p.dtypeC, 1) : 0;
  return together > apart ? together : apart;
}

// The smaller of `size` and what the extent leaves of it.
HADAL_INLINE int64_t bounded(int64_t size, int32_t extent, int64_t unit) {
  const int64_t used = extent < 0 ? 0 : extent * unit;
  return used < size ? used : size;
}

void multiply(const MatmulParams& p, void* const* buffers, RunContext& context) {
  const char* a = static_cast<const char*>(buffers[0]);
  const char* b = static_cast<const char*>(buffers[1]);
  const char* addend = static_cast<const char*>(buffers[2]);
  char* c = static_cast<char*>(buffers[4]);
  int64_t batch = p.batch, m = p.m, k = p.k;
  if (buffers[3]) {
    int64_t& limited = p.extentDim == 0 ? batch : p.extentDim == 1 ? m : k;
    limited = bounded(limited, *static_cast<const int32_t*>(buffers[3]), p.extentUnit);
  }
  if (m == 0 || p.n == 0) return;  // however many empty products there are
  const auto item = [&](int64_t index, int threads, void* workspace) {
    const Factor left{a + index * p.m * p.k * bytesOf(p.dtypeA), p.transposeA ? p.m : p.k, p.transposeA != 0, p.dtypeA};
    const Factor right{b + index * p.k * p.n * bytesOf(p.dtypeB), p.transposeB ? p.k : p.n, p.transposeB != 0,
                       p.dtypeB};
    void* out = c + index * p.m * p.n * bytesOf(p.dtypeC);
    Addend added{};
    if (addend && p.addendIsRow) added = {addend, 0, p.dtypeAddend};
    if (addend && !p.addendIsRow) added = {addend + index * p.m * p.n * bytesOf(p.dtypeAddend), p.n, p.dtypeAddend};
    runProduct(Product{m, p.n, k, left, right, out, p.n, p.dtypeC, false, added}, threads, workspace);
  };
  if (p.batch > 1 && batch >= context.threads) {
    const int64_t bytes = productWorkspace(p.m, p.n, p.dtypeC, 1);
    parallelFor(batch, context.threads, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t index = begin; index < end; index++)
        item(index, 1, static_cast<char*>(context.workspace) + thread * bytes);
    });
  } else {
    for (int64_t index = 0; index < batch; index++) item(index, context.threads, context.workspace);
  }
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(matmul, MatmulParams, multiply, matmulWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
