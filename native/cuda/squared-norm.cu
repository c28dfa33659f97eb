// Formulas, shapes, bytes: native/ops/squared-norm.h. A block sums the squares of a chunk of a tensor, a thread's in fp32,
// those of all threads in double; one block joins the chunks. Which numbers are summed by whom follows from the shapes
// alone.
#include "ops/squared-norm.h"

#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace squared_norm {

// 64 numbers a thread: as many squares are summed in fp32, and a chunk's end costs little beside 32 KiB and more.
constexpr int64_t chunk = 64 * threads;
// Of the block that joins: a billion numbers are 60 of its sums a thread.
constexpr int joinThreads = 1024;

struct List {
  const void* x[SquaredNormParams::maxTensors];
  int64_t count[SquaredNormParams::maxTensors];
  unsigned first[SquaredNormParams::maxTensors];  // chunk of a tensor's first number
  DType dtype[SquaredNormParams::maxTensors];
  bool isWide[SquaredNormParams::maxTensors];  // 16 bytes can be loaded at once
  int tensors;
  unsigned chunks;
};

List listOf(const SquaredNormParams& p, void* const* buffers) {
  List list{};
  list.tensors = static_cast<int>(p.tensors);
  for (int t = 0; t < list.tensors; t++) {
    list.x[t] = buffers[t], list.count[t] = p.count[t], list.dtype[t] = p.dtype[t];
    list.first[t] = list.chunks, list.isWide[t] = isAligned(buffers[t], 16);
    list.chunks += blocksFor(p.count[t], chunk);
  }
  return list;
}

int64_t workspaceBytes(const SquaredNormParams& p, int) {
  int64_t chunks = 0;
  for (int64_t t = 0; t < p.tensors; t++) chunks += blocksFor(p.count[t], chunk);
  return chunks * static_cast<int64_t>(sizeof(double));
}

template <class T>
__device__ __forceinline__ float sumOfSquares(const T* x, int64_t count, bool isWide) {
  float total = 0;
  int64_t done = 0;
  if (isWide) {
    using Vector = Pack<T, packed<T>>;
    done = count / packed<T> * packed<T>;
    for (int64_t i = threadIdx.x * packed<T>; i < done; i += threads * packed<T>) {
      const auto pack = *reinterpret_cast<const Vector*>(x + i);
      for (const T one : pack.at) total += toFloat(one) * toFloat(one);
    }
  }
  for (int64_t i = done + threadIdx.x; i < count; i += threads) total += toFloat(x[i]) * toFloat(x[i]);
  return total;
}

__device__ void sumChunks(const List& list, double* partials) {
  // The last tensor whose first chunk is not after this one; one without numbers has the first chunk of the next one.
  int t = 0;
  for (int step = SquaredNormParams::maxTensors / 2; step > 0; step /= 2)
    if (t + step < list.tensors && list.first[t + step] <= blockIdx.x) t += step;
  const int64_t begin = (blockIdx.x - list.first[t]) * chunk, count = min(chunk, list.count[t] - begin);
  const void* const x = list.x[t];
  const DType dtype = list.dtype[t];
  const bool isWide = list.isWide[t];
  float total;
  if (dtype == DType::fp32) {
    total = sumOfSquares(static_cast<const float*>(x) + begin, count, isWide);
  } else if (dtype == DType::bf16) {
    total = sumOfSquares(static_cast<const Bf16*>(x) + begin, count, isWide);
  } else {
    total = sumOfSquares(static_cast<const F16*>(x) + begin, count, isWide);
  }
  const double sum = blockSum<threads>(static_cast<double>(total), shared<double[threads / warpSize]>());
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__device__ void join(const double* partials, unsigned chunks, float* y) {
  double total = 0;
  for (unsigned i = threadIdx.x; i < chunks; i += joinThreads) total += partials[i];
  total = blockSum<joinThreads>(total, shared<double[joinThreads / warpSize]>());
  if (threadIdx.x == 0) *y = static_cast<float>(total);
}

void run(const SquaredNormParams& p, void* const* buffers, RunContext& context) {
  const List list = listOf(p, buffers);
  auto* const partials = static_cast<double*>(context.workspace);
  launch<sumChunks, threads, 4>(context, {.x = list.chunks, .sharedBytes = threads / warpSize * sizeof(double)}, list,
                                partials);
  launch<join, joinThreads>(context, {.x = 1, .sharedBytes = joinThreads / warpSize * sizeof(double)},
                            static_cast<const double*>(partials), list.chunks, static_cast<float*>(buffers[p.tensors]));
}

}  // namespace squared_norm

HADAL_KERNEL_WITH_WORKSPACE(squaredNorm, SquaredNormParams, squared_norm::run, squared_norm::workspaceBytes)

}  // namespace cuda
}  // namespace hadal
