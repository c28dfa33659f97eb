// Formulas, shapes, bytes: native/ops/quantize-blocks.h. A warp takes a block of 256 numbers, eight a lane. Compiled by
// scripts/check-cuda.mjs; has not run on hardware yet.
#include "cuda/launch.cuh"
// After launch.cuh, which makes its helpers run on the device.
#include "ops/quantize-blocks.h"

namespace hadal {
namespace cuda {
namespace {

constexpr int64_t block = quantizedBlock;
constexpr int perLane = static_cast<int>(block) / warpSize;

struct Part {
  char* at;
  int64_t blocks;

  __device__ int8_t* numbers(int64_t b) const { return reinterpret_cast<int8_t*>(at + b * block); }
  __device__ uint16_t* scale(int64_t b) const { return reinterpret_cast<uint16_t*>(at + blocks * block + b * 2); }
  __device__ float read(int64_t b, int64_t i) const {
    return static_cast<float>(numbers(b)[i]) * __uint_as_float(static_cast<uint32_t>(*scale(b)) << 16);
  }
};

__device__ Part partOf(const void* message, int64_t part, int64_t blocks) {
  return {static_cast<char*>(const_cast<void*>(message)) + part * blocks * (block + 2), blocks};
}

// The numbers of a warp's block: lane l has numbers l, l + 32, …
using Numbers = float[perLane];

__device__ void quantize(const Numbers& x, Part part, int64_t b, int lane) {
  uint32_t largest = 0;
  for (const float one : x) largest = max(largest, magnitudeBits(one));
  for (int width = warpSize / 2; width > 0; width /= 2)
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, width));
  uint32_t up = 0x7fc0;
  if (largest < 0x7f800000u) {
    up = (__float_as_uint(__fdiv_rn(__uint_as_float(largest), 127.0f)) + 0xffffu) >> 16;
    up = max(up, 0x80u);  // 2^-126
  }
  const float scale = __uint_as_float(up << 16);
  if (lane == 0) *part.scale(b) = static_cast<uint16_t>(up);
  for (int i = 0; i < perLane; i++)
    part.numbers(b)[i * warpSize + lane] = static_cast<int8_t>(__float2int_rn(__fdiv_rn(x[i], scale)));
  __syncwarp();
}

__device__ void read(const WithResidual& from, int64_t count, int64_t b, int lane, Numbers& x) {
  for (int i = 0; i < perLane; i++) {
    const int64_t at = b * block + i * warpSize + lane;
    x[i] = at < count ? from[at] : 0.0f;
  }
}

// Blocks of numbers are the warps of the grid.
__device__ int64_t warpOfGrid() { return (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / warpSize; }

__global__ void quantizeKernel(QuantizeBlocksParams p, WithResidual from, void* message) {
  const int64_t blocks = partBlocks(p.count, p.ranks), step = static_cast<int64_t>(gridDim.x) * warps;
  const int lane = static_cast<int>(threadIdx.x) % warpSize;
  for (int64_t b = warpOfGrid(); b < blocks * p.ranks; b += step) {
    Numbers x;
    read(from, p.count, b, lane, x);
    quantize(x, partOf(message, b / blocks, blocks), b % blocks, lane);
  }
}

__global__ void sumKernel(SumBlocksParams p, const void* received, const void* sent, WithResidual from, void* message,
                          float* nextResidual) {
  const int64_t blocks = partBlocks(p.count, p.ranks), own = p.rank * blocks;
  const int64_t first = nextResidual ? 0 : own, last = nextResidual ? blocks * p.ranks : own + blocks;
  const int lane = static_cast<int>(threadIdx.x) % warpSize;
  for (int64_t b = first + warpOfGrid(); b < last; b += static_cast<int64_t>(gridDim.x) * warps) {
    Numbers lost = {};
    if (b >= own && b < own + blocks) {
      for (int64_t r = 0; r < p.ranks; r++)
        for (int i = 0; i < perLane; i++) lost[i] += partOf(received, r, blocks).read(b - own, i * warpSize + lane);
      const Part part = partOf(message, 0, blocks);
      quantize(lost, part, b - own, lane);
      for (int i = 0; i < perLane; i++) lost[i] -= part.read(b - own, i * warpSize + lane);
    }
    if (!nextResidual) continue;
    Numbers x;
    read(from, p.count, b, lane, x);
    const Part said = partOf(sent, b / blocks, blocks);
    for (int i = 0; i < perLane; i++) {
      const int64_t at = b * block + i * warpSize + lane;
      if (at < p.count) nextResidual[at] = x[i] - said.read(b % blocks, i * warpSize + lane) + lost[i];
    }
  }
}

__global__ void dequantizeKernel(DequantizeBlocksParams p, const void* messages, float* y) {
  const int64_t blocks = partBlocks(p.count, p.ranks), step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < p.count; i += step) {
    const int64_t b = i / block;
    y[i] = partOf(messages, b / blocks, blocks).read(b % blocks, i % block);
  }
}

WithResidual given(void* const* buffers) {
  return {static_cast<const float*>(buffers[0]), static_cast<const float*>(buffers[1]),
          static_cast<const float*>(buffers[2])};
}

}  // namespace

// Buffers in the order of the contract; workspace is not used.
cudaError_t launchQuantizeBlocks(const QuantizeBlocksParams& p, void* const* buffers, Launch launch) {
  const int64_t all = partBlocks(p.count, p.ranks) * p.ranks;
  if (all == 0) return cudaSuccess;
  quantizeKernel<<<blocksFor(all, warps), threads, 0, launch.stream>>>(p, given(buffers), buffers[3]);
  return cudaGetLastError();
}

cudaError_t launchSumBlocks(const SumBlocksParams& p, void* const* buffers, Launch launch) {
  const int64_t all = partBlocks(p.count, p.ranks) * (buffers[6] ? p.ranks : 1);
  if (all == 0) return cudaSuccess;
  sumKernel<<<blocksFor(all, warps), threads, 0, launch.stream>>>(p, buffers[0], buffers[1], given(buffers + 2),
                                                                  buffers[5], static_cast<float*>(buffers[6]));
  return cudaGetLastError();
}

cudaError_t launchDequantizeBlocks(const DequantizeBlocksParams& p, void* const* buffers, Launch launch) {
  if (p.count == 0) return cudaSuccess;
  dequantizeKernel<<<blocksFor(p.count, threads), threads, 0, launch.stream>>>(p, buffers[0],
                                                                               static_cast<float*>(buffers[1]));
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace hadal
