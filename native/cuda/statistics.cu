// Formulas, shapes, bytes: native/ops/statistics.h. A block counts a chunk of 16384 numbers, one block joins the chunks.
// Nothing is rounded, so that the order does not count.
#include "ops/statistics.h"

#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace statistics_kernels {

constexpr int64_t chunk = StatisticsParams::block;
// Of the block that joins: a billion numbers are 120 chunks a thread.
constexpr int joinThreads = 512;

struct Partial {
  float smallest, greatest;
  int32_t zeros, notFinite;
};

int64_t workspaceBytes(const StatisticsParams& p, int) {
  return (p.count + chunk - 1) / chunk * static_cast<int64_t>(sizeof(Partial));
}

// Of how many numbers statistics are; −1 where the extent is out of range.
__device__ __forceinline__ int64_t countOf(const StatisticsParams& p, const int32_t* extent) {
  if (!extent) return p.count;
  const int64_t given = *extent;
  return given < 0 || (p.unit > 0 && given > p.count / p.unit) ? -1 : given * p.unit;
}

__device__ __forceinline__ void add(Partial& total, float x) {
  const bool isFinite = fabsf(x) < INFINITY;
  total.smallest = fminf(total.smallest, isFinite ? x : INFINITY);
  total.greatest = fmaxf(total.greatest, isFinite ? x : -INFINITY);
  total.zeros += x == 0, total.notFinite += !isFinite;
}

template <class T>
__device__ void countChunks(StatisticsParams p, const T* x, bool isWide, const int32_t* extent, Partial* partials) {
  const int64_t begin = blockIdx.x * chunk, count = min(chunk, countOf(p, extent) - begin);
  if (count <= 0) return;
  x += begin;
  Partial total{INFINITY, -INFINITY, 0, 0};
  int64_t done = 0;
  if (isWide) {
    using Vector = Pack<T, packed<T>>;
    done = count / packed<T> * packed<T>;
    for (int64_t i = threadIdx.x * packed<T>; i < done; i += threads * packed<T>) {
      const auto pack = *reinterpret_cast<const Vector*>(x + i);
      for (const T one : pack.at) add(total, toFloat(one));
    }
  }
  for (int64_t i = done + threadIdx.x; i < count; i += threads) add(total, toFloat(x[i]));
  auto& sums = shared<int32_t[threads / warpSize]>();
  auto& floats = shared<float[threads / warpSize]>();
  total.zeros = blockSum<threads>(total.zeros, sums), total.notFinite = blockSum<threads>(total.notFinite, sums);
  total.smallest = -blockMax<threads>(-total.smallest, floats),
  total.greatest = blockMax<threads>(total.greatest, floats);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

__device__ void join(StatisticsParams p, const int32_t* extent, const Partial* partials, float* y, FaultSite faults) {
  const int64_t count = countOf(p, extent), chunks = (count + chunk - 1) / chunk;
  if (count < 0) {
    if (threadIdx.x == 0) faults.report(*extent);
    return;
  }
  float smallest = INFINITY, greatest = -INFINITY;
  int64_t zeros = 0, notFinite = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += joinThreads) {
    const Partial one = partials[i];
    smallest = fminf(smallest, one.smallest), greatest = fmaxf(greatest, one.greatest);
    zeros += one.zeros, notFinite += one.notFinite;
  }
  auto& sums = shared<int64_t[joinThreads / warpSize]>();
  auto& floats = shared<float[joinThreads / warpSize]>();
  zeros = blockSum<joinThreads>(zeros, sums), notFinite = blockSum<joinThreads>(notFinite, sums);
  smallest = -blockMax<joinThreads>(-smallest, floats), greatest = blockMax<joinThreads>(greatest, floats);
  if (threadIdx.x != 0) return;
  y[0] = smallest, y[1] = greatest;
  y[2] = static_cast<float>(zeros), y[3] = static_cast<float>(notFinite), y[4] = static_cast<float>(count);
}

void run(const StatisticsParams& p, void* const* b, RunContext& context) {
  auto* const partials = static_cast<Partial*>(context.workspace);
  const auto* const extent = static_cast<const int32_t*>(b[1]);
  dispatch(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch<countChunks<T>, threads, 4>(context, {.x = blocksFor(p.count, chunk), .sharedBytes = threads / warpSize * 4},
                                       p, static_cast<const T*>(b[0]), isAligned(b[0], 16), extent, partials);
  });
  launch<join, joinThreads>(context, {.x = 1, .sharedBytes = joinThreads / warpSize * 8}, p, extent,
                            static_cast<const Partial*>(partials), static_cast<float*>(b[2]), faultsOf(context));
}

void explain(const StatisticsParams&, const Fault& fault, RunContext& context) {
  context.fail("[statistics] extent %d is out of range", static_cast<int>(fault.numbers[0]));
}

}  // namespace statistics_kernels

HADAL_KERNEL_WITH_FAULTS(statistics, StatisticsParams, statistics_kernels::run, statistics_kernels::workspaceBytes,
                         statistics_kernels::explain)

}  // namespace cuda
}  // namespace hadal
