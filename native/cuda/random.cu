// Formulas, shapes, bytes: native/ops/random.h. A thread takes one Philox block, four numbers: what it computes for them then
// costs less than memory does. The numbers are those of native/cpu/random.cpp: products of fp32 factors are exact in double, so
// that fused and separate sums round alike.
#include "ops/random.h"

#include <cmath>

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace random_numbers {

constexpr int n = 4;  // words of a Philox block

struct Words {
  uint32_t at[n];
};

__device__ __forceinline__ Words philox(int64_t block, int64_t stream, uint32_t attempt, const uint32_t* seeds) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = attempt;
  uint32_t low = seeds[0], high = seeds[1];
  for (int round = 0; round < 10; round++) {
    const uint32_t high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
    const uint32_t high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
    c0 = high1 ^ c1 ^ low, c1 = low1;
    c2 = high0 ^ c3 ^ high, c3 = low0;
    low += 0x9E3779B9u;   // golden ratio
    high += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return {{c0, c1, c2, c3}};
}

__device__ __forceinline__ float uniformNumber(const RandomFillParams& p, uint32_t word) {
  const double width = static_cast<double>(static_cast<float>(2 * 1.7320508075688772 * p.std));
  return static_cast<float>(p.mean - width / 2 + (word >> 8) * 0x1p-24 * width);
}

// Sine (or cosine) of an angle in [0, 2π), to the last digit or so of a double: the octants are moved to [−π/4, π/4], where
// Taylor's series is short. The library's functions keep an array in local memory for angles of any size.
__device__ __forceinline__ double sineOf(double angle, bool isCosine) {
  const int quarter = static_cast<int>(angle * 0.6366197723675814 + 0.5);  // of 2/π
  // π/2 as a double and what that lacks.
  const double x = fma(-quarter, 6.123233995736766e-17, fma(-quarter, 1.5707963267948966, angle)), square = x * x;
  const int turned = quarter + (isCosine ? 1 : 0);
  double y;
  if (turned % 2) {
    y = fma(square, 4.779477332387385e-14, -1.1470745597729725e-11);  // 1/16!, −1/14!
    y = fma(y, square, 2.08767569878681e-9);
    y = fma(y, square, -2.755731922398589e-7);
    y = fma(y, square, 2.48015873015873e-5);
    y = fma(y, square, -1.388888888888889e-3);
    y = fma(y, square, 4.1666666666666664e-2);
    y = fma(y, square, -0.5);
    y = fma(y, square, 1.0);
  } else {
    y = fma(square, 2.8114572543455206e-15, -7.647163731819816e-13);  // 1/17!, −1/15!
    y = fma(y, square, 1.6059043836821613e-10);
    y = fma(y, square, -2.505210838544172e-8);
    y = fma(y, square, 2.7557319223985893e-6);
    y = fma(y, square, -1.984126984126984e-4);
    y = fma(y, square, 8.333333333333333e-3);
    y = fma(y, square, -1.6666666666666666e-1);
    y = fma(y * square, x, x);
  }
  return turned & 2 ? -y : y;
}

// Number `index` (0 … 3) of the four normal numbers that a block's words give.
__device__ __forceinline__ float standardNormal(const Words& words, int index) {
  const uint32_t first = index & 2 ? words.at[2] : words.at[0], second = index & 2 ? words.at[3] : words.at[1];
  const double radius = sqrt(-2.0 * log((first + 1.0) * 0x1p-32));
  return static_cast<float>(radius * sineOf(second * (0x1p-32 * 6.283185307179586), !(index & 1)));
}

__device__ void fill(RandomFillParams p, const uint32_t* key, void* y, bool isWide) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, left = p.count - block * n;
  if (left <= 0) return;
  const Words words = philox(block, p.stream, 0, key);
  const double std = static_cast<double>(static_cast<float>(p.std));
  float x[n] = {};
  if (p.distribution == uniform) {
#pragma unroll
    for (int j = 0; j < n; j++) x[j] = uniformNumber(p, words.at[j]);
  } else {
#pragma unroll 1
    for (int j = 0; j < n; j++) {
      float z = standardNormal(words, j);
      if (p.distribution == truncatedNormal)
        for (uint32_t attempt = 1; fabsf(z) > 2; attempt++)
          z = standardNormal(philox(block, p.stream, attempt, key), j);
      // In turn, so that a number's place in registers is known when this is compiled.
      x[0] = x[1], x[1] = x[2], x[2] = x[3], x[3] = static_cast<float>(p.mean + std * z);
    }
  }
  storeNumbers(y, p.dtype, block * n, left, isWide && left >= n, x);
}

// y may be x's memory.
template <class T>
__device__ void drop(DropoutParams p, uint32_t threshold, float scale, const T* x, const uint32_t* key, T* y,
                     bool isWide) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, left = p.count - block * n;
  if (left <= 0) return;
  isWide = isWide && left >= n;
  float v[n];
  loadNumbers(v, x + block * n, left, isWide);
  const Words words = philox(block, p.stream, 0, key);
#pragma unroll
  for (int j = 0; j < n; j++) v[j] = words.at[j] >> 8 >= threshold ? v[j] * scale : 0.0f;
  storeNumbers(y + block * n, left, isWide, v);
}

void runFill(const RandomFillParams& p, void* const* b, RunContext& context) {
  launch<fill, threads>(context, {.x = blocksFor(p.count, threads * n)}, p, static_cast<const uint32_t*>(b[0]), b[1],
                        isAligned(b[1], static_cast<size_t>(n * bytesOf(p.dtype))));
}

void runDropout(const DropoutParams& p, void* const* b, RunContext& context) {
  const uint32_t threshold = static_cast<uint32_t>(std::ceil(p.probability * 0x1p24));
  const float scale = static_cast<float>(1 / (1 - p.probability));
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const bool isWide = isAligned(b[0], n * sizeof(T)) && isAligned(b[2], n * sizeof(T));
    launch<drop<T>, threads>(context, {.x = blocksFor(p.count, threads * n)}, p, threshold, scale,
                             static_cast<const T*>(b[0]), static_cast<const uint32_t*>(b[1]), static_cast<T*>(b[2]),
                             isWide);
  });
}

}  // namespace random_numbers

HADAL_KERNEL(randomFill, RandomFillParams, random_numbers::runFill)
HADAL_KERNEL(dropout, DropoutParams, random_numbers::runDropout)

}  // namespace cuda
}  // namespace hadal
