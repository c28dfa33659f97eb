// Formula, shapes, bytes: native/ops/matmul.h. cuBLASLt multiplies where it was found and takes the product; the kernels here do where it does not,
// where an extent or a predicate is read on the device, and everywhere without it. 16-bit factors of one dtype go through tensor
// cores, all others through fp32 arithmetic.
//
// A block takes one tile of one product of the batch, or a part of its terms: products with few tiles and many terms (gradients
// of weights) are cut into parts whose fp32 sums a second kernel adds up in order. How many parts follows from the sizes alone, so
// that every card computes the same bits; which tile does not change bits, and may follow from the card.
#include "cuda/gemm.cuh"
#include "cuda/product.h"
#include "ops/matmul.h"

namespace hadal {
namespace cuda {
namespace matmul {

// ---- Device code

struct Job {
  MatmulParams p;
  const void* a;
  const void* b;
  const void* addend;
  const int32_t* extent;
  void* c;
  int64_t rowA, rowB, rowC;  // between rows as they lie in memory; the addend's are c's
  float* partSums;           // [parts][batch·m·n], null where c is written at once
  int64_t termsAPart;
};

// What the extent leaves of the product, and of its batch.
struct Bounds {
  int64_t batch, m, k;
};
__device__ __forceinline__ Bounds boundsOf(const Job& job) {
  Bounds bounds{job.p.batch, job.p.m, job.p.k};
  if (job.extent) {
    const int64_t extent = *job.extent, used = extent < 0 ? 0 : extent * job.p.extentUnit;
    if (job.p.extentDim == 0 && used < bounds.batch) bounds.batch = used;
    if (job.p.extentDim == 1 && used < bounds.m) bounds.m = used;
    if (job.p.extentDim == 2 && used < bounds.k) bounds.k = used;
  }
  return bounds;
}

// One tile: where it lies, and what is summed.
struct Part {
  gemm::Sizes sizes;
  int64_t item, row, column;
  bool isEmpty;
};
template <class Tile>
__device__ __forceinline__ Part partOf(const Job& job) {
  const MatmulParams& p = job.p;
  const int64_t tilesDown = (p.m + Tile::rows - 1) / Tile::rows,
                tilesAcross = (p.n + Tile::columns - 1) / Tile::columns;
  const int64_t block = blockIdx.x, tiles = tilesDown * tilesAcross;
  const auto place = gemm::tilePlace(block % tiles, tilesDown, tilesAcross);
  const Bounds bounds = boundsOf(job);
  const int64_t begin = blockIdx.y * job.termsAPart, end = begin + job.termsAPart;
  Part part{{bounds.m, p.n, begin, end < bounds.k ? end : bounds.k},
            block / tiles,
            place.down * Tile::rows,
            place.across * Tile::columns,
            false};
  part.isEmpty = part.item >= bounds.batch || part.row >= bounds.m;
  return part;
}

template <class Shared, class Sums>
__device__ __forceinline__ void finish(const Job& job, Shared& s, const Sums& sums, const Part& part) {
  const MatmulParams& p = job.p;
  const int64_t offset = part.item * p.m * p.n;
  gemm::Output out{};
  if (job.partSums) {
    out = {job.partSums + blockIdx.y * p.batch * p.m * p.n + offset, p.n, DType::fp32};
  } else {
    out = {static_cast<char*>(job.c) + offset * bytesOf(p.dtypeC), job.rowC, p.dtypeC};
    if (job.addend) {
      out.addend = static_cast<const char*>(job.addend) + (p.addendIsRow ? 0 : offset * bytesOf(p.dtypeAddend));
      out.addendStride = p.addendIsRow ? 0 : job.rowC;
      out.dtypeAddend = p.dtypeAddend;
    }
  }
  gemm::store(s, sums, out, part.sizes, part.row, part.column);
}

template <class Tile, class T, bool transposeA, bool transposeB>
__device__ void multiply(Job job) {
  auto& s = shared<gemm::SharedOf<Tile>>();
  const MatmulParams& p = job.p;
  const Part part = partOf<Tile>(job);
  if (part.isEmpty) return;
  const gemm::Factor<T> a{static_cast<const T*>(job.a) + part.item * p.m * p.k, job.rowA};
  const gemm::Factor<T> b{static_cast<const T*>(job.b) + part.item * p.k * p.n, job.rowB};
  gemm::Sums<Tile> sums;
  gemm::multiply<Tile, T, transposeA, transposeB>(s, a, b, part.sizes, part.row, part.column, sums);
  finish(job, s, sums, part);
}

template <class Tile>
__device__ void multiplyFp32(Job job) {
  auto& s = shared<gemm::SharedFp32<Tile>>();
  const MatmulParams& p = job.p;
  const Part part = partOf<Tile>(job);
  if (part.isEmpty) return;
  const gemm::AnyFactor a{static_cast<const char*>(job.a) + part.item * p.m * p.k * bytesOf(p.dtypeA), job.rowA,
                          p.dtypeA, p.transposeA != 0};
  const gemm::AnyFactor b{static_cast<const char*>(job.b) + part.item * p.k * p.n * bytesOf(p.dtypeB), job.rowB,
                          p.dtypeB, p.transposeB != 0};
  gemm::SumsFp32<Tile> sums;
  gemm::multiplyFp32<Tile>(s, a, b, part.sizes, part.row, part.column, sums);
  finish(job, s, sums, part);
}

// c = the parts' sums in order (+ addend), four numbers of a row a thread; every part is there, also one without terms.
__device__ void addParts(Job job, int64_t parts) {
  const MatmulParams& p = job.p;
  const Bounds bounds = boundsOf(job);
  const int64_t fours = (p.n + 3) / 4, size = p.batch * p.m * p.n;
  const int64_t at = int64_t{blockIdx.x} * threads + threadIdx.x;
  const int64_t row = at / fours, column = at % fours * 4;  // rows of the whole batch
  if (row >= p.batch * p.m || row / p.m >= bounds.batch || row % p.m >= bounds.m) return;
  const int count = gemm::countOf(p.n - column);
  const float* from = job.partSums + row * p.n + column;
  float x[4] = {};
  for (int64_t part = 0; part < parts; part++) {
#pragma unroll
    for (int j = 0; j < 4; j++) x[j] += j < count ? from[part * size + j] : 0.0f;
  }
  const gemm::Output out{job.c, job.rowC, p.dtypeC, job.addend, p.addendIsRow ? 0 : job.rowC, p.dtypeAddend};
  gemm::storeFour(out, row, column, count, x);
}

// ---- How a product is cut

int64_t tilesOf(const MatmulParams& p, int64_t rows, int64_t columns) {
  return p.batch * ((p.m + rows - 1) / rows) * ((p.n + columns - 1) / columns);
}

bool isOnTensorCores(const MatmulParams& p) { return p.dtypeA == p.dtypeB && p.dtypeA != DType::fp32; }
// Rows for which a tile of 16 is read through.
bool isFlat(const MatmulParams& p) { return isOnTensorCores(p) && p.m <= gemm::FlatTile::rows; }

// Parts of the terms. Enough for 256 blocks, which keep the largest card busy, of at least 512 terms each, whose sums cost little
// beside them.
int64_t partsOf(const MatmulParams& p) {
  constexpr int64_t wantedBlocks = 256, leastTerms = 512, most = 64;
  const int64_t tiles = isFlat(p) ? tilesOf(p, gemm::FlatTile::rows, gemm::FlatTile::columns)
                                  : tilesOf(p, gemm::SmallTile::rows, gemm::SmallTile::columns);
  if (tiles == 0) return 1;
  const int64_t wanted = wantedBlocks / tiles, fitting = p.k / leastTerms;
  const int64_t parts = wanted < fitting ? wanted : fitting;
  return parts < 2 ? 1 : parts > most ? most : parts;
}
// A multiple of every tile's depth, so that only the last part has a rest.
int64_t termsAPart(const MatmulParams& p, int64_t parts) {
  constexpr int64_t unit = gemm::SmallTile::depth;
  return ((p.k + parts - 1) / parts + unit - 1) / unit * unit;
}

int64_t workspaceBytes(const MatmulParams& p, int) {
  const int64_t parts = partsOf(p), ours = parts > 1 ? parts * p.batch * p.m * p.n * 4 : 0;
  const int64_t theirs = cublaslt::workspaceBytes();
  return ours > theirs ? ours : theirs;
}

// ---- Launches

template <class Tile, class T>
void launchTile(const Job& job, int64_t parts, RunContext& context) {
  const Grid grid{.x = blocksFor(tilesOf(job.p, Tile::rows, Tile::columns), 1),
                  .y = static_cast<unsigned>(parts),
                  .sharedBytes = sizeof(gemm::SharedOf<Tile>)};
  const auto go = [&]<bool transposeA, bool transposeB>() {
    launch<multiply<Tile, T, transposeA, transposeB>, Tile::threads, Tile::blocksPerProcessor>(context, grid, job);
  };
  if (job.p.transposeA) {
    job.p.transposeB ? go.template operator()<true, true>() : go.template operator()<true, false>();
  } else {
    job.p.transposeB ? go.template operator()<false, true>() : go.template operator()<false, false>();
  }
}
template <class Tile>
void launchTileFp32(const Job& job, int64_t parts, RunContext& context) {
  const Grid grid{.x = blocksFor(tilesOf(job.p, Tile::rows, Tile::columns), 1),
                  .y = static_cast<unsigned>(parts),
                  .sharedBytes = sizeof(gemm::SharedFp32<Tile>)};
  launch<multiplyFp32<Tile>, Tile::threads, Tile::blocksPerProcessor>(context, grid, job);
}

template <class T>
void launchOnTensorCores(const Job& job, int64_t parts, bool isLarge, RunContext& context) {
  if (isFlat(job.p)) return launchTile<gemm::FlatTile, T>(job, parts, context);
  if (isLarge) return launchTile<gemm::LargeTile, T>(job, parts, context);
  launchTile<gemm::SmallTile, T>(job, parts, context);
}

void multiplyOurselves(const MatmulParams& p, const cublaslt::Product& product, const int32_t* extent, void* workspace,
                       RunContext& context) {
  const int64_t parts = partsOf(p);
  auto* const partSums = parts > 1 ? static_cast<float*>(workspace) : nullptr;
  const Job job{p,
                product.a,
                product.b,
                product.bias ? product.bias : product.addend,
                extent,
                product.c,
                product.rowA(),
                product.rowB(),
                product.rowC(),
                partSums,
                termsAPart(p, parts)};
  // Large tiles where every multiprocessor gets one.
  const bool isLarge = parts == 1 && tilesOf(p, 128, 128) >= context.processors;
  if (!isOnTensorCores(p)) {
    isLarge ? launchTileFp32<gemm::LargeTileFp32>(job, parts, context)
            : launchTileFp32<gemm::SmallTileFp32>(job, parts, context);
  } else if (p.dtypeA == DType::bf16) {
    launchOnTensorCores<Bf16>(job, parts, isLarge, context);
  } else {
    launchOnTensorCores<F16>(job, parts, isLarge, context);
  }
  if (partSums)
    launch<addParts, threads>(context, {.x = blocksFor(p.batch * p.m * ((p.n + 3) / 4), threads)}, job, parts);
}

void run(const MatmulParams& p, void* const* b, RunContext& context) {
  if (p.batch == 0 || p.m == 0 || p.n == 0) return;
  const cublaslt::Product product{.batch = p.batch,
                                  .m = p.m,
                                  .n = p.n,
                                  .k = p.k,
                                  .transposeA = p.transposeA != 0,
                                  .transposeB = p.transposeB != 0,
                                  .dtypeA = p.dtypeA,
                                  .dtypeB = p.dtypeB,
                                  .dtypeC = p.dtypeC,
                                  .a = b[0],
                                  .b = b[1],
                                  .c = b[4],
                                  .bias = p.addendIsRow ? b[2] : nullptr,
                                  .addend = p.addendIsRow ? nullptr : b[2],
                                  .dtypeAddend = p.dtypeAddend};
  const auto* const extent = static_cast<const int32_t*>(b[3]);
  // An extent is not the host's to read.
  if (extent || !cublaslt::multiply(product, context.workspace, context))
    multiplyOurselves(p, product, extent, context.workspace, context);
}

MatmulParams paramsOf(const cublaslt::Product& p) {
  return {p.batch, p.m, p.n,      p.k,      p.transposeA, p.transposeB, p.bias != nullptr,
          0,       1,   p.dtypeA, p.dtypeB, p.dtypeC,     p.dtypeAddend};
}

}  // namespace matmul

void runProduct(const cublaslt::Product& product, void* workspace, RunContext& context) {
  if (product.batch == 0 || product.m == 0 || product.n == 0) return;
  if (!cublaslt::multiply(product, workspace, context))
    matmul::multiplyOurselves(matmul::paramsOf(product), product, nullptr, workspace, context);
}

int64_t productWorkspace(const cublaslt::Product& product) {
  return matmul::workspaceBytes(matmul::paramsOf(product), 1);
}

}  // namespace cuda

HADAL_KERNEL_WITH_WORKSPACE(matmul, MatmulParams, cuda::matmul::run, cuda::matmul::workspaceBytes)

}  // namespace hadal
