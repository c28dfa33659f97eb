// A stand-in for cuBLASLt: the part of its interface that native/cuda/cublaslt-api.h names, over host memory. Sizes of attributes
// are checked as the library checks them. A product is a blocked one in fp32, put on the simulated stream as a host function, so
// that it happens in the stream's order and again whenever a captured graph is replayed.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

#include "cuda/cublaslt-api.h"
#include "sim/convert.h"

#define HADAL_EXPORT extern "C" __attribute__((visibility("default")))

using namespace hadal::cuda::cublaslt;

namespace hadal::cuda::cublaslt {

struct Context {};
struct MatmulDesc {
  ComputeType compute;
  Operation transA = Operation::none, transB = Operation::none;
  Epilogue epilogue = Epilogue::none;
  const void* bias = nullptr;
};
struct MatrixLayout {
  DataType type;
  int64_t rows, columns, stride;
  int32_t batch = 1;
  int64_t batchStride = 0;
};
struct Preference {
  uint64_t workspaceBytes = 0;
  uint32_t reductions = 7;
};

}  // namespace hadal::cuda::cublaslt

namespace {

// ---- The product: d = alpha·op(a)·op(b) + beta·c (+ bias a row of d), matrices by columns

int64_t bytesOf(DataType type) { return type == DataType::fp32 ? 4 : 2; }

float read(const void* data, DataType type, int64_t at) {
  if (type == DataType::fp32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  return type == DataType::bf16 ? hadal::sim::floatOfBf16(bits) : hadal::sim::floatOfF16(bits);
}
void write(void* data, DataType type, int64_t at, float x) {
  if (type == DataType::fp32) {
    static_cast<float*>(data)[at] = x;
  } else {
    static_cast<uint16_t*>(data)[at] = type == DataType::bf16 ? hadal::sim::bf16OfFloat(x) : hadal::sim::f16OfFloat(x);
  }
}

struct Matrix {
  const void* data;
  DataType type;
  int64_t rowStride, columnStride;
};

struct Call {
  int64_t batch, m, n, k;
  Matrix a, b, c;
  void* d;
  const void* bias;
  int64_t batchA, batchB, batchC, batchD, strideD;
  DataType typeD;
  float alpha, beta;

  auto key() const {
    return std::make_tuple(std::make_tuple(batch, m, n, k, a.data, a.type, a.rowStride, a.columnStride, b.data, b.type,
                                           b.rowStride, b.columnStride),
                           std::make_tuple(c.data, c.type, c.columnStride, d, bias, batchA, batchB, batchC, batchD,
                                           strideD, typeD, alpha, beta));
  }
  bool operator<(const Call& other) const { return key() < other.key(); }
};

// 6 rows of 16 columns: 12 of the 16 registers of AVX2, or 6 of AVX-512. A block of both factors and of the sums, 96 · 256, 256 · 256
// and 96 · 256 floats, stays in a second-level cache of 512 KiB.
constexpr int tileRows = 6, tileColumns = 16;
constexpr int64_t blockRows = 96, blockColumns = 256, blockDepth = 256;
struct Workspace {
  float a[blockRows * blockDepth], b[blockDepth * blockColumns], sums[blockRows * blockColumns];
};

#if defined(__x86_64__)
#define HADAL_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define HADAL_CLONES
#endif
using Vec = float __attribute__((vector_size(tileColumns * sizeof(float))));

// One tile of sums += packed a [depth][tileRows] · packed b [depth][tileColumns].
HADAL_CLONES void multiplyTile(const float* a, const float* b, float* sums, int64_t depth) {
  Vec total[tileRows] = {};
  for (int64_t k = 0; k < depth; k++) {
    Vec row;
    std::memcpy(&row, b + k * tileColumns, sizeof(row));
    for (int i = 0; i < tileRows; i++) total[i] += a[k * tileRows + i] * row;
  }
  for (int i = 0; i < tileRows; i++)
    for (int j = 0; j < tileColumns; j++) sums[i * blockColumns + j] += total[i][j];
}

// Panels of `width` rows, [panel][depth][width], rows beyond the matrix zero. With x.rowStride and x.columnStride swapped: of columns.
template <int width, DataType type>
void packAs(const Matrix& x, int64_t first, int64_t rows, int64_t k, int64_t depth, float* to) {
  for (int64_t panel = 0; panel < rows; panel += width) {
    const int64_t count = std::min<int64_t>(width, rows - panel);
    for (int64_t l = 0; l < depth; l++, to += width) {
      const int64_t at = (first + panel) * x.rowStride + (k + l) * x.columnStride;
      for (int64_t i = 0; i < count; i++) to[i] = read(x.data, type, at + i * x.rowStride);
      for (int64_t i = count; i < width; i++) to[i] = 0;
    }
  }
}
template <int width>
void pack(const Matrix& x, int64_t first, int64_t rows, int64_t k, int64_t depth, float* to) {
  if (x.type == DataType::fp32) return packAs<width, DataType::fp32>(x, first, rows, k, depth, to);
  if (x.type == DataType::bf16) return packAs<width, DataType::bf16>(x, first, rows, k, depth, to);
  packAs<width, DataType::fp16>(x, first, rows, k, depth, to);
}

// One block of dᵀ: columns of d are its rows, since they are what lies apart.
void multiplyBlock(const Call& call, int64_t item, int64_t row, int64_t column, Workspace& w) {
  const int64_t rows = std::min(blockRows, call.n - row), columns = std::min(blockColumns, call.m - column);
  const auto at = [item](const void* data, DataType type, int64_t stride) {
    return data ? static_cast<const char*>(data) + item * stride * bytesOf(type) : nullptr;
  };
  const Matrix left{at(call.b.data, call.b.type, call.batchB), call.b.type, call.b.columnStride, call.b.rowStride};
  const Matrix right{at(call.a.data, call.a.type, call.batchA), call.a.type, call.a.rowStride, call.a.columnStride};
  std::memset(w.sums, 0, sizeof(w.sums));
  for (int64_t k = 0; k < call.k; k += blockDepth) {
    const int64_t depth = std::min(blockDepth, call.k - k);
    pack<tileRows>(left, row, rows, k, depth, w.a);
    pack<tileColumns>(right, column, columns, k, depth, w.b);
    for (int64_t j = 0; j < columns; j += tileColumns)
      for (int64_t i = 0; i < rows; i += tileRows)
        multiplyTile(w.a + i * depth, w.b + j * depth, w.sums + i * blockColumns + j, depth);
  }
  const void* const c = at(call.c.data, call.c.type, call.batchC);
  void* const d = const_cast<char*>(at(call.d, call.typeD, call.batchD));
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < columns; j++) {
      float x = call.alpha * w.sums[i * blockColumns + j];
      if (call.beta != 0) x += call.beta * read(c, call.c.type, (row + i) * call.c.columnStride + column + j);
      if (call.bias) x += read(call.bias, call.typeD, column + j);
      write(d, call.typeD, (row + i) * call.strideD + column + j, x);
    }
  }
}

void multiply(const Call& call) {
  const int64_t down = (call.n + blockRows - 1) / blockRows, across = (call.m + blockColumns - 1) / blockColumns;
  const int64_t blocks = call.batch * down * across;
#pragma omp parallel if (blocks > 1)
  {
    static thread_local Workspace workspace;
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; block++)
      multiplyBlock(call, block / (down * across), block / across % down * blockRows, block % across * blockColumns,
                    workspace);
  }
}

void run(void* call) { multiply(*static_cast<const Call*>(call)); }

Enqueue enqueue = nullptr;
std::mutex mutex;
// Every call ever made, once: a graph that captured it may replay it at any time, and nothing says when the last one is gone.
std::set<Call>& calls = *new std::set<Call>;

// ---- Attributes

template <class T>
Status assign(T& to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof(T)) return Status::invalidValue;
  std::memcpy(&to, value, bytes);
  return Status::success;
}

struct Shape {
  int64_t rows, columns;
};
Shape shapeOf(const MatrixLayout& x, Operation operation) {
  return operation == Operation::none ? Shape{x.rows, x.columns} : Shape{x.columns, x.rows};
}
Matrix matrixOf(const void* data, const MatrixLayout& x, Operation operation) {
  return operation == Operation::none ? Matrix{data, x.type, 1, x.stride} : Matrix{data, x.type, x.stride, 1};
}

// Whether types and shapes are such that cuBLASLt multiplies them.
Status check(const MatmulDesc& desc, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& c,
             const MatrixLayout& d) {
  const Shape left = shapeOf(a, desc.transA), right = shapeOf(b, desc.transB);
  if (left.columns != right.rows || left.rows != d.rows || right.columns != d.columns || c.rows != d.rows ||
      c.columns != d.columns || c.type != d.type)
    return Status::invalidValue;
  for (const MatrixLayout* x : {&a, &b, &c, &d})
    if (x->rows < 1 || x->columns < 1 || x->stride < x->rows || x->batch != d.batch) return Status::invalidValue;
  const bool isWide = a.type == DataType::fp32;
  if (a.type != b.type || (d.type != a.type && d.type != DataType::fp32)) return Status::notSupported;
  if ((desc.compute == ComputeType::fp32Pedantic) != isWide) return Status::notSupported;
  return Status::success;
}

}  // namespace

HADAL_EXPORT void hadalCublasLtSetEnqueue(Enqueue function) { enqueue = function; }

HADAL_EXPORT size_t cublasLtGetVersion() { return 130000; }

HADAL_EXPORT Status cublasLtCreate(Context** context) {
  *context = new Context;
  return Status::success;
}

HADAL_EXPORT Status cublasLtMatmulDescCreate(MatmulDesc** desc, ComputeType compute, DataType scale) {
  if (scale != DataType::fp32) return Status::notSupported;
  *desc = new MatmulDesc{compute};
  return Status::success;
}
HADAL_EXPORT Status cublasLtMatmulDescDestroy(MatmulDesc* desc) {
  delete desc;
  return Status::success;
}
HADAL_EXPORT Status cublasLtMatmulDescSetAttribute(MatmulDesc* desc, DescAttribute attribute, const void* value,
                                                   size_t bytes) {
  switch (attribute) {
    case DescAttribute::transA:
      return assign(desc->transA, value, bytes);
    case DescAttribute::transB:
      return assign(desc->transB, value, bytes);
    case DescAttribute::epilogue:
      return assign(desc->epilogue, value, bytes);
    case DescAttribute::biasPointer:
      return assign(desc->bias, value, bytes);
  }
  return Status::invalidValue;
}

HADAL_EXPORT Status cublasLtMatrixLayoutCreate(MatrixLayout** layout, DataType type, uint64_t rows, uint64_t columns,
                                               int64_t stride) {
  *layout = new MatrixLayout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), stride};
  return Status::success;
}
HADAL_EXPORT Status cublasLtMatrixLayoutDestroy(MatrixLayout* layout) {
  delete layout;
  return Status::success;
}
HADAL_EXPORT Status cublasLtMatrixLayoutSetAttribute(MatrixLayout* layout, LayoutAttribute attribute, const void* value,
                                                     size_t bytes) {
  return attribute == LayoutAttribute::batchCount           ? assign(layout->batch, value, bytes)
         : attribute == LayoutAttribute::stridedBatchOffset ? assign(layout->batchStride, value, bytes)
                                                            : Status::invalidValue;
}

HADAL_EXPORT Status cublasLtMatmulPreferenceCreate(Preference** preference) {
  *preference = new Preference;
  return Status::success;
}
HADAL_EXPORT Status cublasLtMatmulPreferenceDestroy(Preference* preference) {
  delete preference;
  return Status::success;
}
HADAL_EXPORT Status cublasLtMatmulPreferenceSetAttribute(Preference* preference, PreferenceAttribute attribute,
                                                         const void* value, size_t bytes) {
  uint32_t alignment = 0;
  if (attribute == PreferenceAttribute::maxWorkspaceBytes) return assign(preference->workspaceBytes, value, bytes);
  if (attribute == PreferenceAttribute::reductionSchemeMask) return assign(preference->reductions, value, bytes);
  return assign(alignment, value, bytes);
}

HADAL_EXPORT Status cublasLtMatmulAlgoGetHeuristic(Context* context, MatmulDesc* desc, MatrixLayout* a, MatrixLayout* b,
                                                   MatrixLayout* c, MatrixLayout* d, Preference* preference, int wanted,
                                                   HeuristicResult* results, int* count) {
  *count = 0;
  if (!context || !preference || wanted < 1) return Status::invalidValue;
  const Status status = check(*desc, *a, *b, *c, *d);
  if (status != Status::success) return status;
  results[0] = {};
  *count = 1;
  return Status::success;
}

HADAL_EXPORT Status cublasLtMatmul(Context* context, MatmulDesc* desc, const void* alpha, const void* a,
                                   MatrixLayout* layoutA, const void* b, MatrixLayout* layoutB, const void* beta,
                                   const void* c, MatrixLayout* layoutC, void* d, MatrixLayout* layoutD,
                                   const Algorithm* algorithm, void*, size_t, Stream stream) {
  if (!context || !algorithm || !enqueue) return Status::invalidValue;
  const Status status = check(*desc, *layoutA, *layoutB, *layoutC, *layoutD);
  if (status != Status::success) return status;
  const Call call{.batch = layoutD->batch,
                  .m = layoutD->rows,
                  .n = layoutD->columns,
                  .k = shapeOf(*layoutA, desc->transA).columns,
                  .a = matrixOf(a, *layoutA, desc->transA),
                  .b = matrixOf(b, *layoutB, desc->transB),
                  .c = matrixOf(c, *layoutC, Operation::none),
                  .d = d,
                  .bias = desc->epilogue == Epilogue::bias ? desc->bias : nullptr,
                  .batchA = layoutA->batchStride,
                  .batchB = layoutB->batchStride,
                  .batchC = layoutC->batchStride,
                  .batchD = layoutD->batchStride,
                  .strideD = layoutD->stride,
                  .typeD = layoutD->type,
                  .alpha = *static_cast<const float*>(alpha),
                  .beta = *static_cast<const float*>(beta)};
  const Call* kept = nullptr;
  {
    const std::lock_guard lock(mutex);
    kept = &*calls.insert(call).first;
  }
  return enqueue(stream, run, const_cast<Call*>(kept)) == 0 ? Status::success : Status::executionFailed;
}
