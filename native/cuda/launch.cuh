// What CUDA sources share: the primitives, numbers of a GPU, sums over warps and blocks, vectors, dtypes.
#pragma once
// nvcc's or the host executor's, by the include path.
#include "primitives.cuh"

namespace hadal {
namespace cuda {

inline constexpr int warpSize = 32;
inline constexpr unsigned wholeWarp = 0xffffffffu;
// Of a block, where nothing speaks for another number: four blocks of it fill the registers of a multiprocessor at 64 a
// thread, whose scheduler then always has a warp.
inline constexpr int threads = 256;

// Blocks for `count` units of which a block takes `unit`; a grid has at most 2^31 - 1 (kernels go on in strides of it).
inline unsigned blocksFor(int64_t count, int64_t unit) {
  const int64_t blocks = (count + unit - 1) / unit;
  return static_cast<unsigned>(blocks > 0x7fffffff ? 0x7fffffff : blocks);
}

// `items` numbers that are loaded and stored at once; their address is aligned to their bytes.
template <class T, int items>
struct alignas(sizeof(T) * items) Pack {
  T at[items];
};
// As many as 16 bytes hold.
template <class T>
inline constexpr int packed = 16 / sizeof(T);

inline bool isAligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

__device__ __forceinline__ int laneId() { return static_cast<int>(threadIdx.x) % warpSize; }
__device__ __forceinline__ int warpId() { return static_cast<int>(threadIdx.x) / warpSize; }

// Over the 32 lanes, in the same order every time; every lane gets the result.
template <class T>
__device__ __forceinline__ T warpSum(T x) {
  for (int width = warpSize / 2; width > 0; width /= 2) x += __shfl_xor_sync(wholeWarp, x, width);
  return x;
}
__device__ __forceinline__ float warpMax(float x) {
  for (int width = warpSize / 2; width > 0; width /= 2) x = fmaxf(x, __shfl_xor_sync(wholeWarp, x, width));
  return x;
}

// Over the block; every thread gets the result. `shared` holds a number a warp, and may be used again at once.
template <int blockThreads, class T>
__device__ __forceinline__ T blockSum(T x, T* shared) {
  x = warpSum(x);
  if (laneId() == 0) shared[warpId()] = x;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < blockThreads / warpSize; w++) total += shared[w];
  __syncthreads();
  return total;
}
template <int blockThreads>
__device__ __forceinline__ float blockMax(float x, float* shared) {
  x = warpMax(x);
  if (laneId() == 0) shared[warpId()] = x;
  __syncthreads();
  float most = shared[0];
  for (int w = 1; w < blockThreads / warpSize; w++) most = fmaxf(most, shared[w]);
  __syncthreads();
  return most;
}

// Where device code of the next launch reports bad data.
struct FaultSite {
  Fault* fault;
  int32_t instruction, launch;

  __device__ void report(int64_t a, int64_t b = 0, int64_t c = 0) const {
    if (atomicCAS(&fault->isRaised, 0, 1 + launch) != 0) return;
    fault->instruction = instruction;
    fault->numbers[0] = a, fault->numbers[1] = b, fault->numbers[2] = c;
  }
};
inline FaultSite faultsOf(const RunContext& context) {
  return {context.fault, context.instruction, context.nextLaunch()};
}

// Calls f with a number of the dtype's storage: float, Bf16 or F16.
template <class F>
void dispatch(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(Bf16{});
  if (dtype == DType::fp16) return f(F16{});
  f(float{});
}

template <class T>
inline constexpr DType dtypeOf = sizeof(T) == 4 ? DType::fp32 : DType::bf16;
template <>
inline constexpr DType dtypeOf<F16> = DType::fp16;

}  // namespace cuda
}  // namespace hadal
