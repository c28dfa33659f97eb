// Gradients to 16 bits, in which they travel, and back, times a factor: y = factor·x, rounded to nearest even.
// x, y of `count` numbers in fp32, bf16 or fp16; factor fp32 [1] or null (1). Bytes: reads x, writes y. Compiled by
// scripts/check-cuda.mjs; has not run on hardware yet.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace {

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float toFloat(__half x) { return __half2float(x); }
__device__ __forceinline__ void put(float* y, float x) { *y = x; }
__device__ __forceinline__ void put(__nv_bfloat16* y, float x) { *y = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(__half* y, float x) { *y = __float2half_rn(x); }

template <class From, class To>
__global__ void convert(int64_t count, const From* x, const float* factor, To* y) {
  const float times = factor ? *factor : 1.0f;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step)
    put(y + i, toFloat(x[i]) * times);
}

template <class Body>
cudaError_t withType(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::fp32:
      return body(float{});
    case DType::bf16:
      return body(__nv_bfloat16{});
    case DType::fp16:
      return body(__half{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launchConvert(int64_t count, DType from, const void* x, const float* factor, DType to, void* y,
                          Launch launch) {
  if (count == 0) return cudaSuccess;
  return withType(from, [&](auto in) {
    using From = decltype(in);
    return withType(to, [&](auto out) {
      using To = decltype(out);
      convert<<<blocksFor(count, threads), threads, 0, launch.stream>>>(count, static_cast<const From*>(x), factor,
                                                                        static_cast<To*>(y));
      return cudaGetLastError();
    });
  });
}

}  // namespace cuda
}  // namespace hadal
