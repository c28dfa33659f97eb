// Formulas, shapes, bytes: native/ops/quantize-blocks.h. A warp takes a block of 256 numbers: a lane has two times four
// neighbours, 16 bytes of fp32 and 4 of a message. Messages begin at even addresses; those of odd ranks may not be aligned
// to 4 bytes, and are then read and written byte by byte.
#include "ops/quantize-blocks.h"

#include "cuda/residual.cuh"

namespace hadal {
namespace cuda {
namespace quantize_blocks {

constexpr int64_t block = quantizedBlock;
constexpr int warps = threads / warpSize;
constexpr int halves = 2, width = 4, half = width * warpSize;
static_assert(halves * half == block);

// A lane's numbers of a block: four from 4·lane, and from 128 + 4·lane.
struct Numbers {
  float at[halves][width];
};

// Where blocks lie in a message of one part.
struct Part {
  char* at;
  int64_t blocks;

  __device__ __forceinline__ uint16_t* scale(int64_t b) const {
    return reinterpret_cast<uint16_t*>(at + blocks * block + b * 2);
  }
  // Of this lane, in block b.
  __device__ __forceinline__ char* numbers(int64_t b, int h) const {
    return at + b * block + h * half + laneId() * width;
  }
  __device__ __forceinline__ bool isWide() const { return reinterpret_cast<uintptr_t>(at) % 4 == 0; }

  __device__ __forceinline__ Numbers read(int64_t b) const {
    const float times = __uint_as_float(static_cast<uint32_t>(*scale(b)) << 16);
    Numbers x;
    for (int h = 0; h < halves; h++) {
      uint32_t word = 0;
      const auto* from = reinterpret_cast<const uint8_t*>(numbers(b, h));
      if (isWide()) {
        word = *reinterpret_cast<const uint32_t*>(from);
      } else {
        for (int k = 0; k < width; k++) word |= static_cast<uint32_t>(from[k]) << (8 * k);
      }
      for (int k = 0; k < width; k++) x.at[h][k] = static_cast<float>(static_cast<int8_t>(word >> (8 * k))) * times;
    }
    return x;
  }
};

__device__ __forceinline__ Part partOf(void* message, int64_t part, int64_t blocks) {
  return {static_cast<char*>(message) + part * blocks * (block + 2), blocks};
}

// Makes x block b of the part, and x what the part then says.
__device__ __forceinline__ void quantize(Numbers& x, const Part& part, int64_t b) {
  uint32_t largest = 0;
  for (const auto& row : x.at)
    for (const float one : row) largest = max(largest, magnitudeBits(one));
  for (int reach = warpSize / 2; reach > 0; reach /= 2)
    largest = max(largest, __shfl_xor_sync(wholeWarp, largest, reach));
  uint32_t up = 0x7fc0;
  if (largest < 0x7f800000u)
    up = max((__float_as_uint(__uint_as_float(largest) / 127.0f) + 0xffffu) >> 16, 0x80u);  // at least 2^-126
  if (laneId() == 0) *part.scale(b) = static_cast<uint16_t>(up);
  const float scale = __uint_as_float(up << 16);
  for (int h = 0; h < halves; h++) {
    uint32_t word = 0;
    for (int k = 0; k < width; k++) {
      const int32_t whole = __float2int_rn(x.at[h][k] / scale);  // 0 of NaN
      word |= static_cast<uint32_t>(whole & 0xff) << (8 * k);
      x.at[h][k] = static_cast<float>(whole) * scale;
    }
    auto* const to = reinterpret_cast<uint8_t*>(part.numbers(b, h));
    if (part.isWide()) {
      *reinterpret_cast<uint32_t*>(to) = word;
    } else {
      for (int k = 0; k < width; k++) to[k] = static_cast<uint8_t>(word >> (8 * k));
    }
  }
}

// Calls body(h, place) for this lane's rows of block b of a tensor, those that end before `count` and may be accessed at
// once, else tail(h, k, place) for each number before `count`.
template <class Body, class Tail>
__device__ __forceinline__ void forRows(int64_t count, bool isWide, int64_t b, Body&& body, Tail&& tail) {
  for (int h = 0; h < halves; h++) {
    const int64_t place = b * block + h * half + laneId() * width;
    if (isWide && place + width <= count) {
      body(h, place);
    } else {
      for (int k = 0; k < width; k++)
        if (place + k < count) tail(h, k, place + k);
    }
  }
}

__device__ __forceinline__ Numbers readBlock(const WithResidual& from, float factor, int64_t count, bool isWide,
                                             int64_t b) {
  Numbers x{};  // zeros beyond the last one
  forRows(
      count, isWide, b,
      [&](int h, int64_t i) {
        const auto pack = from.read<width>(i, factor);
        for (int k = 0; k < width; k++) x.at[h][k] = pack.at[k];
      },
      [&](int h, int k, int64_t i) { x.at[h][k] = from.read<1>(i, factor).at[0]; });
  return x;
}
__device__ __forceinline__ void writeBlock(const Numbers& x, float* y, int64_t count, bool isWide, int64_t b) {
  forRows(
      count, isWide, b,
      [&](int h, int64_t i) {
        Pack<float, width> pack;
        for (int k = 0; k < width; k++) pack.at[k] = x.at[h][k];
        *reinterpret_cast<Pack<float, width>*>(y + i) = pack;
      },
      [&](int h, int k, int64_t i) { y[i] = x.at[h][k]; });
}

__device__ __forceinline__ int64_t warpOfGrid() { return static_cast<int64_t>(blockIdx.x) * warps + warpId(); }
__device__ __forceinline__ int64_t warpsOfGrid() { return static_cast<int64_t>(gridDim.x) * warps; }

__device__ void quantizeAll(int64_t count, int64_t ranks, int64_t blocks, WithResidual from, bool isWide,
                            void* message) {
  const float factor = from.factor();
  for (int64_t b = warpOfGrid(); b < blocks * ranks; b += warpsOfGrid()) {
    Numbers x = readBlock(from, factor, count, isWide, b);
    quantize(x, partOf(message, b / blocks, blocks), b % blocks);
  }
}

__device__ void sumAll(SumBlocksParams p, int64_t blocks, void* received, void* sent, WithResidual from, bool isWide,
                       void* message, float* nextResidual) {
  const int64_t own = p.rank * blocks;
  const int64_t first = nextResidual ? 0 : own, last = nextResidual ? blocks * p.ranks : own + blocks;
  const float factor = nextResidual ? from.factor() : 0;
  for (int64_t b = first + warpOfGrid(); b < last; b += warpsOfGrid()) {
    Numbers lost{};
    const bool isOwn = b >= own && b < own + blocks;
    if (isOwn) {
      for (int64_t r = 0; r < p.ranks; r++) {
        const Numbers y = partOf(received, r, blocks).read(b - own);
        for (int h = 0; h < halves; h++)
          for (int k = 0; k < width; k++) lost.at[h][k] += y.at[h][k];
      }
      Numbers said = lost;
      quantize(said, partOf(message, 0, blocks), b - own);
      for (int h = 0; h < halves; h++)
        for (int k = 0; k < width; k++) lost.at[h][k] -= said.at[h][k];
    }
    if (!nextResidual) continue;
    Numbers x = readBlock(from, factor, p.count, isWide, b);
    const Numbers y = partOf(sent, b / blocks, blocks).read(b % blocks);
    for (int h = 0; h < halves; h++)
      for (int k = 0; k < width; k++) {
        x.at[h][k] -= y.at[h][k];
        if (isOwn) x.at[h][k] += lost.at[h][k];
      }
    writeBlock(x, nextResidual, p.count, isWide, b);
  }
}

__device__ void dequantizeAll(int64_t count, int64_t blocks, void* messages, float* y, bool isWide) {
  for (int64_t b = warpOfGrid(); b * block < count; b += warpsOfGrid())
    writeBlock(partOf(messages, b / blocks, blocks).read(b % blocks), y, count, isWide, b);
}

void runQuantize(const QuantizeBlocksParams& p, void* const* b, RunContext& context) {
  const int64_t blocks = partBlocks(p.count, p.ranks);
  launch<quantizeAll, threads, 4>(context, {.x = blocksFor(blocks * p.ranks, warps)}, p.count, p.ranks, blocks,
                                  withResidual(b[0], b[1], b[2]), isAligned(b[0], 16) && isAligned(b[1], 16), b[3]);
}

void runSum(const SumBlocksParams& p, void* const* b, RunContext& context) {
  if (b[6] && (!b[1] || !b[2])) return context.fail("[sum-blocks] expected sent and grad where there is nextResidual");
  const int64_t blocks = partBlocks(p.count, p.ranks);
  const bool isWide = isAligned(b[2], 16) && isAligned(b[3], 16) && isAligned(b[6], 16);
  launch<sumAll, threads, 4>(context, {.x = blocksFor(b[6] ? blocks * p.ranks : blocks, warps)}, p, blocks, b[0], b[1],
                             withResidual(b[2], b[3], b[4]), isWide, b[5], static_cast<float*>(b[6]));
}

void runDequantize(const DequantizeBlocksParams& p, void* const* b, RunContext& context) {
  const int64_t blocks = partBlocks(p.count, p.ranks);
  launch<dequantizeAll, threads, 4>(context, {.x = blocksFor(p.count, warps * block)}, p.count, blocks, b[0],
                                    static_cast<float*>(b[1]), isAligned(b[1], 16));
}

}  // namespace quantize_blocks

HADAL_KERNEL(quantizeBlocks, QuantizeBlocksParams, quantize_blocks::runQuantize)
HADAL_KERNEL(sumBlocks, SumBlocksParams, quantize_blocks::runSum)
HADAL_KERNEL(dequantizeBlocks, DequantizeBlocksParams, quantize_blocks::runDequantize)

}  // namespace cuda
}  // namespace hadal
