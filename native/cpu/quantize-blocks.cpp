#include "ops/quantize-blocks.h"

#include "core/threads.h"
#include "cpu/residual.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

constexpr int64_t block = quantizedBlock;
// Blocks worth a thread: 16 K numbers.
constexpr int64_t grain = 64;

typedef int8_t Bytes __attribute__((vector_size(lanes), aligned(1), may_alias));

// Of __builtin_convertvector GCC 12 makes as many instructions as there are numbers.
#if defined(__AVX512F__)
HADAL_INLINE IVec widen(const int8_t* p) {
  return (IVec)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#elif defined(__AVX2__)
HADAL_INLINE IVec widen(const int8_t* p) {
  return (IVec)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
#else
HADAL_INLINE IVec widen(const int8_t* p) { return __builtin_convertvector(*reinterpret_cast<const Bytes*>(p), IVec); }
#endif

// A block's numbers in a message, as fp32.
struct Quantized {
  const int8_t* numbers;
  float scale;

  HADAL_INLINE Vec operator[](int64_t i) const { return __builtin_convertvector(widen(numbers + i), Vec) * scale; }
};

// Where blocks lie in a message of one part.
struct Part {
  char* at;
  int64_t blocks;

  HADAL_INLINE int8_t* numbers(int64_t b) const { return reinterpret_cast<int8_t*>(at + b * block); }
  HADAL_INLINE char* scale(int64_t b) const { return at + blocks * block + b * 2; }
  HADAL_INLINE Quantized operator[](int64_t b) const {
    Bf16 bits;
    std::memcpy(&bits, scale(b), 2);
    return {numbers(b), toFloat(bits)};
  }
};
HADAL_INLINE Part partOf(const void* message, int64_t part, int64_t blocks) {
  return {static_cast<char*>(const_cast<void*>(message)) + part * blocks * (block + 2), blocks};
}

// Rounded up: no quotient is then beyond 127. NaN where a number is not finite.
HADAL_INLINE uint16_t scaleOf(const float* x) {
  UVec most = {};
  for (int64_t i = 0; i < block; i += lanes) {
    const UVec bits = magnitudeBits(load(x + i));
    most = bits > most ? bits : most;
  }
  uint32_t largest = 0;
  for (int i = 0; i < lanes; i++) largest = most[i] > largest ? most[i] : largest;
  if (largest >= 0x7f800000u) return 0x7fc0;
  float magnitude;
  std::memcpy(&magnitude, &largest, 4);
  const float scale = magnitude / 127;
  uint32_t bits;
  std::memcpy(&bits, &scale, 4);
  const uint16_t up = static_cast<uint16_t>((bits + 0xffffu) >> 16);
  return up < 0x80 ? 0x80 : up;  // 2^-126
}

HADAL_INLINE void quantize(const float* x, Part part, int64_t b) {
  const uint16_t bits = scaleOf(x);
  std::memcpy(part.scale(b), &bits, 2);
  const float scale = toFloat(Bf16{bits});
  int8_t* numbers = part.numbers(b);
  for (int64_t i = 0; i < block; i += lanes) {
    const Vec shifted = load(x + i) / scale + 12582912.0f;  // 1.5 · 2^23: rounds to integer
    const IVec whole = reinterpret_cast<IVec>(shifted) - 0x4b400000;
    *reinterpret_cast<Bytes*>(numbers + i) = __builtin_convertvector(whole, Bytes);
  }
}

// The numbers of block `b` of all parts, and zeros beyond the last one.
HADAL_INLINE int64_t readBlock(const WithResidual& x, int64_t count, int64_t b, float* numbers) {
  const int64_t left = count - b * block, n = left < 0 ? 0 : left < block ? left : block;
  forLanes(n, [&](int64_t i, auto part) { store(numbers + i, part, x(b * block + i, part)); });
  for (int64_t i = n; i < block; i++) numbers[i] = 0;
  return n;
}

void quantizeAll(const QuantizeBlocksParams& p, void* const* buffers, RunContext& context) {
  const WithResidual x(buffers[0], buffers[1], buffers[2]);
  const int64_t blocks = partBlocks(p.count, p.ranks);
  parallelFor(blocks * p.ranks, context.threads, grain, [&](int64_t begin, int64_t end, int) {
    float numbers[block];
    for (int64_t b = begin; b < end; b++) {
      readBlock(x, p.count, b, numbers);
      quantize(numbers, partOf(buffers[3], b / blocks, blocks), b % blocks);
    }
  });
}

// Block `b` of this rank's part: the sum over the ranks becomes part of the message; lost = sum − what the message says.
HADAL_INLINE void sumBlock(const void* received, int64_t ranks, Part message, int64_t b, float* lost) {
  for (int64_t i = 0; i < block; i++) lost[i] = 0;
  for (int64_t r = 0; r < ranks; r++) {
    const Quantized y = partOf(received, r, message.blocks)[b];
    for (int64_t i = 0; i < block; i += lanes) store(lost + i, load(lost + i) + y[i]);
  }
  quantize(lost, message, b);
  const Quantized y = message[b];
  for (int64_t i = 0; i < block; i += lanes) store(lost + i, load(lost + i) - y[i]);
}

void sumAll(const SumBlocksParams& p, void* const* buffers, RunContext& context) {
  const void *received = buffers[0], *sent = buffers[1];
  float* nextResidual = static_cast<float*>(buffers[6]);
  const int64_t blocks = partBlocks(p.count, p.ranks), own = p.rank * blocks;
  const Part message = partOf(buffers[5], 0, blocks);
  if (!nextResidual) {
    parallelFor(blocks, context.threads, grain, [&](int64_t begin, int64_t end, int) {
      float lost[block];
      for (int64_t b = begin; b < end; b++) sumBlock(received, p.ranks, message, b, lost);
    });
    return;
  }
  if (!sent || !buffers[2]) return context.fail("[sum-blocks] expected sent and grad where there is nextResidual");
  const WithResidual x(buffers[2], buffers[3], buffers[4]);
  parallelFor(blocks * p.ranks, context.threads, grain, [&](int64_t begin, int64_t end, int) {
    float numbers[block], lost[block];
    for (int64_t b = begin; b < end; b++) {
      const int64_t n = readBlock(x, p.count, b, numbers);
      const Quantized y = partOf(sent, b / blocks, blocks)[b % blocks];
      for (int64_t i = 0; i < block; i += lanes) store(numbers + i, load(numbers + i) - y[i]);
      if (b >= own && b < own + blocks) {
        sumBlock(received, p.ranks, message, b - own, lost);
        for (int64_t i = 0; i < block; i += lanes) store(numbers + i, load(numbers + i) + load(lost + i));
      }
      std::memcpy(nextResidual + b * block, numbers, static_cast<size_t>(n) * 4);
    }
  });
}

void dequantizeAll(const DequantizeBlocksParams& p, void* const* buffers, RunContext& context) {
  float* y = static_cast<float*>(buffers[1]);
  const int64_t blocks = partBlocks(p.count, p.ranks);
  parallelFor((p.count + block - 1) / block, context.threads, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b++) {
      const Quantized from = partOf(buffers[0], b / blocks, blocks)[b % blocks];
      const int64_t left = p.count - b * block;
      forLanes(left < block ? left : block, [&](int64_t i, auto part) { store(y + b * block + i, part, from[i]); });
    }
  });
}

}  // namespace

HADAL_KERNEL(quantizeBlocks, QuantizeBlocksParams, quantizeAll)
HADAL_KERNEL(sumBlocks, SumBlocksParams, sumAll)
HADAL_KERNEL(dequantizeBlocks, DequantizeBlocksParams, dequantizeAll)

}  // namespace HADAL_ISA
}  // namespace hadal
