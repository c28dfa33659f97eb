#include "ops/random.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

typedef uint64_t UVec64 __attribute__((vector_size(lanes * 4), may_alias));

HADAL_INLINE uint32_t multiplyHigh(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}
// Products of the even and of the odd lanes, which are the halves of 64-bit lanes: no widening, no narrowing.
HADAL_INLINE UVec multiplyHigh(UVec a, uint32_t b) {
  const UVec64 pairs = reinterpret_cast<UVec64>(a);
  const UVec64 even = (pairs & 0xffffffffu) * b >> 32, odd = (pairs >> 32) * b & 0xffffffff00000000u;
  return reinterpret_cast<UVec>(even | odd);
}

struct Key {
  uint32_t low, high;
};

// Ten rounds over one block (U = uint32_t) or one block a lane (U = UVec). In: the counter; out: four random words.
template <class U>
HADAL_INLINE void philox(U (&c)[4], Key key) {
  for (int round = 0; round < 10; round++) {
    const U high0 = multiplyHigh(c[0], 0xD2511F53u), low0 = c[0] * 0xD2511F53u;
    const U high1 = multiplyHigh(c[2], 0xCD9E8D57u), low1 = c[2] * 0xCD9E8D57u;
    c[0] = high1 ^ c[1] ^ key.low;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key.high;
    c[3] = low0;
    key.low += 0x9E3779B9u;   // golden ratio
    key.high += 0xBB67AE85u;  // sqrt(3) - 1
  }
}

Key loadKey(const void* key) {
  Key loaded;
  std::memcpy(&loaded, key, 8);
  return loaded;
}

// Work is handed out in batches of a block a lane: `perBatch` elements, whose words come in element order.
constexpr int64_t perBatch = 4 * lanes;
int64_t batchesOf(int64_t count) { return (count + perBatch - 1) / perBatch; }

HADAL_INLINE void batchWords(uint32_t (&words)[perBatch], int64_t batch, int64_t stream, Key key) {
  const int64_t block = batch * lanes;  // a multiple of lanes: adding a lane's number never carries into the high word
  UVec c[4] = {UVec{} + static_cast<uint32_t>(block), UVec{} + static_cast<uint32_t>(block >> 32),
               UVec{} + static_cast<uint32_t>(stream), UVec{}};
  for (int lane = 0; lane < lanes; lane++) c[0][lane] += static_cast<uint32_t>(lane);
  philox(c, key);
  // From a vector a word to the four words of a block side by side.
  const UVec low02 = interleave<0>(c[0], c[2]), low13 = interleave<0>(c[1], c[3]);
  const UVec high02 = interleave<1>(c[0], c[2]), high13 = interleave<1>(c[1], c[3]);
  const UVec ordered[4] = {interleave<0>(low02, low13), interleave<1>(low02, low13), interleave<0>(high02, high13),
                           interleave<1>(high02, high13)};
  std::memcpy(words, ordered, sizeof(ordered));
}

// Numbers are computed so that every sum has one rounding whether or not the compiler fuses it with its product (fp32
// factors, exact products in double): the same bits from every instruction set.

float uniformNumber(const RandomFillParams& p, uint32_t word) {
  const double width = static_cast<float>(2 * 1.7320508075688772 * p.std);
  return static_cast<float>(p.mean - width / 2 + (word >> 8) * 0x1p-24 * width);
}

// Number `index` (0 … 3) of the four normal numbers that a block's words give.
float standardNormal(const uint32_t* words, int64_t index) {
  const uint32_t* pair = words + (index & 2);
  const double radius = std::sqrt(-2.0 * std::log((pair[0] + 1.0) * 0x1p-32));
  const double angle = pair[1] * (0x1p-32 * 6.283185307179586);
  return static_cast<float>(radius * (index & 1 ? std::sin(angle) : std::cos(angle)));
}

float truncatedStandardNormal(const RandomFillParams& p, const uint32_t* words, int64_t element, Key key) {
  float z = standardNormal(words, element % 4);
  for (uint32_t attempt = 1; std::fabs(z) > 2; attempt++) {
    const int64_t block = element / 4;
    uint32_t c[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), static_cast<uint32_t>(p.stream),
                     attempt};
    philox(c, key);
    z = standardNormal(c, element % 4);
  }
  return z;
}

void fill(const RandomFillParams& p, void* const* buffers, RunContext& context) {
  const Key key = loadKey(buffers[0]);
  const double std = static_cast<float>(p.std);
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    T* y = static_cast<T*>(buffers[1]);
    parallelFor(batchesOf(p.count), context.threads, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t batch = begin; batch < end; batch++) {
        uint32_t words[perBatch];
        batchWords(words, batch, p.stream, key);
        const int64_t first = batch * perBatch;
        for (int64_t i = 0; i < perBatch && first + i < p.count; i++) {
          const uint32_t* block = words + i / 4 * 4;
          float x;
          if (p.distribution == uniform)
            x = uniformNumber(p, words[i]);
          else if (p.distribution == normal)
            x = static_cast<float>(p.mean + std * standardNormal(block, i % 4));
          else
            x = static_cast<float>(p.mean + std * truncatedStandardNormal(p, block, first + i, key));
          y[first + i] = fromFloat<T>(x);
        }
      }
    });
  });
}

void drop(const DropoutParams& p, void* const* buffers, RunContext& context) {
  const Key key = loadKey(buffers[1]);
  const uint32_t threshold = static_cast<uint32_t>(std::ceil(p.probability * 0x1p24));
  const float scale = static_cast<float>(1 / (1 - p.probability));
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(batchesOf(p.count), context.threads, 256, [&](int64_t begin, int64_t end, int) {
      for (int64_t batch = begin; batch < end; batch++) {
        uint32_t words[perBatch];
        batchWords(words, batch, p.stream, key);
        const int64_t first = batch * perBatch, left = p.count - first;
        const T* x = static_cast<const T*>(buffers[0]) + first;
        T* y = static_cast<T*>(buffers[2]) + first;
        forLanes(left < perBatch ? left : perBatch, [&](int64_t i, auto part) {
          UVec word;
          std::memcpy(&word, words + i, sizeof(word));
          const IVec isKept = reinterpret_cast<IVec>((word >> 8) >= threshold);
          store(y + i, part, select(isKept, load(x + i, part) * scale, Vec{}));
        });
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(randomFill, RandomFillParams, fill)
HADAL_KERNEL(dropout, DropoutParams, drop)

}  // namespace HADAL_ISA
}  // namespace hadal
