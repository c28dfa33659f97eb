// What CUDA sources share: contracts whose helpers run on the device, too, sums over a block of threads, launches.
#pragma once
#include <cuda_runtime.h>

#include "core/kernel.h"

// Contracts that are included after this one compute sizes on both sides.
#undef HADAL_INLINE
#define HADAL_INLINE __host__ __device__ __forceinline__

namespace hadal {
namespace cuda {
namespace {

constexpr int warpSize = 32;
// Of a block: four blocks of it fill the registers of a multiprocessor at 64 a thread, whose scheduler then always has a warp.
constexpr int threads = 256;
constexpr int warps = threads / warpSize;

// Where a launcher puts its work, and what it may write to.
struct Launch {
  cudaStream_t stream;
  void* workspace;
};

// Blocks for `count` units of which a block takes `unit`; a grid has at most 2^31 - 1.
inline unsigned blocksFor(int64_t count, int64_t unit) {
  const int64_t blocks = (count + unit - 1) / unit;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > 0x7fffffff ? 0x7fffffff : blocks);
}

// Sum over the block, the same tree every time; every thread gets it. `shared` holds a number a warp.
template <class T>
__device__ T blockSum(T x, T* shared) {
  for (int width = warpSize / 2; width > 0; width /= 2) x += __shfl_xor_sync(0xffffffffu, x, width);
  if (threadIdx.x % warpSize == 0) shared[threadIdx.x / warpSize] = x;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < warps; w++) total += shared[w];
  __syncthreads();
  return total;
}

// grad + scale·residual; without a residual, or where its scale is 0, the residual is not read.
struct WithResidual {
  const float* grad;
  const float* residual;
  const float* scale;

  __device__ float operator[](int64_t i) const {
    const float factor = residual && scale ? *scale : 0.0f;
    return factor == 0.0f ? grad[i] : fmaf(residual[i], factor, grad[i]);
  }
};

__device__ __forceinline__ uint32_t magnitudeBits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

}  // namespace
}  // namespace cuda
}  // namespace hadal
