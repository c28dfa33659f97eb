// SIMD written once: GCC/Clang vector extensions, as wide as the instruction set this file is compiled for.
// Everything lives in the instruction set's own namespace and is forced inline, so that no copy compiled for a newer
// machine can be picked by the linker for an older one.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace hadal {
namespace HADAL_ISA {

#if defined(__AVX512F__)
inline constexpr int lanes = 16;
#elif defined(__AVX2__)
inline constexpr int lanes = 8;
#else
inline constexpr int lanes = 4;
#endif

// Aligned as 16-bit numbers are, which are also read and written in pairs.
typedef float Vec __attribute__((vector_size(lanes * 4), aligned(2), may_alias));
typedef int32_t IVec __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
typedef uint32_t UVec __attribute__((vector_size(lanes * 4), aligned(2), may_alias));
typedef uint16_t HVec __attribute__((vector_size(lanes * 2), aligned(2), may_alias));
typedef Fp16 FVec __attribute__((vector_size(lanes * 2), aligned(2), may_alias));

HADAL_INLINE Vec splat(float x) { return Vec{} + x; }

// ---- Scalars to and from fp32

HADAL_INLINE float toFloat(float x) { return x; }
HADAL_INLINE float toFloat(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
HADAL_INLINE float toFloat(Fp16 x) { return static_cast<float>(x); }

template <class T>
HADAL_INLINE T fromFloat(float x);
template <>
HADAL_INLINE float fromFloat<float>(float x) {
  return x;
}
template <>
HADAL_INLINE Bf16 fromFloat<Bf16>(float x) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40)};
  return Bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}
template <>
HADAL_INLINE Fp16 fromFloat<Fp16>(float x) {
  return static_cast<Fp16>(x);
}

// 16 bits to 32 and back, where the upper halves are 0. Of __builtin_convertvector GCC 12 makes three instructions and a
// second load; of the plain AVX-512 intrinsics (not of those with a mask, here full) warnings of its own.
#if defined(__AVX512F__)
HADAL_INLINE UVec widen(HVec x) { return (UVec)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)x); }
HADAL_INLINE HVec narrow(UVec x) { return (HVec)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x); }
HADAL_INLINE Vec fromFp16(FVec x) { return (Vec)_mm512_maskz_cvtph_ps(0xffff, (__m256i)x); }
HADAL_INLINE FVec toFp16(Vec x) { return (FVec)_mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__AVX2__)
HADAL_INLINE UVec widen(HVec x) { return (UVec)_mm256_cvtepu16_epi32((__m128i)x); }
HADAL_INLINE HVec narrow(UVec x) {
  return (HVec)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
}
HADAL_INLINE Vec fromFp16(FVec x) { return (Vec)_mm256_cvtph_ps((__m128i)x); }
HADAL_INLINE FVec toFp16(Vec x) { return (FVec)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#else
HADAL_INLINE UVec widen(HVec x) { return __builtin_convertvector(x, UVec); }
HADAL_INLINE HVec narrow(UVec x) { return __builtin_convertvector(x, HVec); }
HADAL_INLINE Vec fromFp16(FVec x) { return __builtin_convertvector(x, Vec); }
HADAL_INLINE FVec toFp16(Vec x) { return __builtin_convertvector(x, FVec); }
#endif
HADAL_INLINE Vec fromBf16(HVec x) { return reinterpret_cast<Vec>(widen(x) << 16); }

// ---- Vectors to and from memory, converting

HADAL_INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
HADAL_INLINE Vec load(const Bf16* p) { return fromBf16(*reinterpret_cast<const HVec*>(p)); }
HADAL_INLINE Vec load(const Fp16* p) { return fromFp16(*reinterpret_cast<const FVec*>(p)); }

HADAL_INLINE void store(float* p, Vec x) { *reinterpret_cast<Vec*>(p) = x; }
#if defined(__AVX512BF16__)
HADAL_INLINE HVec toBf16(Vec x) { return (HVec)_mm512_cvtneps_pbh((__m512)x); }  // numbers below 2^-126 become 0
#else
HADAL_INLINE HVec toBf16(Vec x) {
  const UVec bits = reinterpret_cast<UVec>(x);
  const UVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UVec nan = (bits >> 16) | 0x40u;
  const UVec isNan = reinterpret_cast<UVec>((bits & 0x7fffffffu) > 0x7f800000u);
  return narrow((nan & isNan) | (rounded & ~isNan));
}
#endif
HADAL_INLINE void store(Bf16* p, Vec x) { *reinterpret_cast<HVec*>(p) = toBf16(x); }
HADAL_INLINE void store(Fp16* p, Vec x) { *reinterpret_cast<FVec*>(p) = toFp16(x); }

// The first n < lanes numbers; the rest reads as `fill` and is not written.
#if defined(__AVX512F__)
HADAL_INLINE __mmask16 firstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
HADAL_INLINE Vec loadPart(const float* p, int64_t n, float fill = 0) {
  return (Vec)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), firstLanes(n), p);
}
HADAL_INLINE Vec loadPart(const Bf16* p, int64_t n, float fill = 0) {
  const Vec x = fromBf16((HVec)_mm256_maskz_loadu_epi16(firstLanes(n), p));
  return (Vec)_mm512_mask_mov_ps(_mm512_set1_ps(fill), firstLanes(n), (__m512)x);
}
HADAL_INLINE Vec loadPart(const Fp16* p, int64_t n, float fill = 0) {
  const Vec x = fromFp16((FVec)_mm256_maskz_loadu_epi16(firstLanes(n), p));
  return (Vec)_mm512_mask_mov_ps(_mm512_set1_ps(fill), firstLanes(n), (__m512)x);
}
HADAL_INLINE void storePart(float* p, int64_t n, Vec x) { _mm512_mask_storeu_ps(p, firstLanes(n), (__m512)x); }
HADAL_INLINE void storePart(Bf16* p, int64_t n, Vec x) {
  _mm256_mask_storeu_epi16(p, firstLanes(n), (__m256i)toBf16(x));
}
HADAL_INLINE void storePart(Fp16* p, int64_t n, Vec x) {
  _mm256_mask_storeu_epi16(p, firstLanes(n), (__m256i)toFp16(x));
}
#endif
template <class T>
HADAL_INLINE Vec loadPart(const T* p, int64_t n, float fill = 0) {
  float part[lanes];
  for (int i = 0; i < lanes; i++) part[i] = i < n ? toFloat(p[i]) : fill;
  return load(part);
}
template <class T>
HADAL_INLINE void storePart(T* p, int64_t n, Vec x) {
  for (int64_t i = 0; i < n; i++) p[i] = fromFloat<T>(x[i]);
}

// Asks for what a loop reads 2 KB later, some hundred instructions ahead at 64 bytes each: processors stop fetching ahead of a
// loop by themselves at the end of a page, and a row has several streams.
HADAL_INLINE void prefetch(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + 2048); }

// ---- Rows: the body is written once and compiled twice, for whole vectors and for a row's last, partly filled one.
// forLanes(n, [&](int64_t i, auto part) { store(y + i, part, load(x + i, part) * 2.0f); })

struct WholeVec {};
struct PartVec {
  int64_t count;  // 1 … lanes - 1
};

template <class T>
HADAL_INLINE Vec load(const T* p, WholeVec, float = 0) {
  return load(p);
}
template <class T>
HADAL_INLINE Vec load(const T* p, PartVec part, float fill = 0) {  // what lies beyond the row reads as `fill`
  return loadPart(p, part.count, fill);
}
template <class T>
HADAL_INLINE void store(T* p, WholeVec, Vec x) {
  store(p, x);
}
template <class T>
HADAL_INLINE void store(T* p, PartVec part, Vec x) {
  storePart(p, part.count, x);
}

template <class Body>
HADAL_INLINE void forLanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, WholeVec{});
  if (i < n) body(i, PartVec{n - i});
}

// What a number of T keeps of x.
template <class T>
HADAL_INLINE Vec rounded(Vec x) {
  return x;
}
template <>
HADAL_INLINE Vec rounded<Bf16>(Vec x) {
  return fromBf16(toBf16(x));
}
template <>
HADAL_INLINE Vec rounded<Fp16>(Vec x) {
  return fromFp16(toFp16(x));
}

// ---- Streaming stores go past the caches. A plain store fetches its line before it fills it, a third of a copy's traffic;
// but within a step the next op reads a result from the cache, so only calls stream whose data no cache holds.
// streaming(bytes, canStream(y, rowBytes), [&](auto streams) { … put<streams.value>(y + i, part, v) … endStream() })

// Twice the last-level cache of most machines (16 to 32 MiB a group of cores): then nothing of the result would be left.
inline constexpr int64_t streamedBytes = int64_t{64} << 20;

// Whether each row begins where a whole vector may be streamed to, and takes the place of nothing that was read: then its
// lines are in the cache already.
template <class... Reads>
HADAL_INLINE bool canStream(const void* rows, int64_t rowBytes, Reads... reads) {
  return (reinterpret_cast<uintptr_t>(rows) | static_cast<uintptr_t>(rowBytes)) % (lanes * 4) == 0 &&
         ((rows != static_cast<const void*>(reads)) && ...);
}
// Calls body with std::true_type if an op that reads and writes `bytes` streams.
template <class Body>
HADAL_INLINE void streaming(int64_t bytes, bool isAligned, Body&& body) {
  if (isAligned && bytes >= streamedBytes)
    body(std::true_type{});
  else
    body(std::false_type{});
}

template <class V>
HADAL_INLINE void streamBits(void* p, V x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)x);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)x);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)x);
  if constexpr (sizeof(V) == 8) return _mm_stream_si64(static_cast<long long*>(p), (long long)x);
#else
  std::memcpy(p, &x, sizeof(V));
#endif
}
HADAL_INLINE void stream(float* p, Vec x) { streamBits(p, x); }
HADAL_INLINE void stream(Bf16* p, Vec x) { streamBits(p, toBf16(x)); }
HADAL_INLINE void stream(Fp16* p, Vec x) { streamBits(p, toFp16(x)); }

// Stores past the caches where a kernel streams: only whole vectors, a row of which begins where canStream() says.
template <bool streams, class T, class Part>
HADAL_INLINE void put(T* p, Part part, Vec x) {
  if constexpr (streams && std::is_same_v<Part, WholeVec>)
    stream(p, x);
  else
    store(p, part, x);
}
// Copies to a place of any alignment past the caches, from where a kernel has put together what it streams.
HADAL_INLINE void streamBytes(void* out, const void* in, int64_t bytes) {
  char* to = static_cast<char*>(out);
  const char* from = static_cast<const char*>(in);
  const int64_t head = -reinterpret_cast<intptr_t>(to) & (lanes * 4 - 1);
  int64_t i = head < bytes ? head : bytes;
  std::memcpy(to, from, static_cast<size_t>(i));
  for (; i + lanes * 4 <= bytes; i += lanes * 4) streamBits(to + i, *reinterpret_cast<const Vec*>(from + i));
  std::memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
}
// At the end of a thread's share: streamed stores become visible before what follows.
HADAL_INLINE void endStream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// ---- Copies of few bytes, for rows of which a call of memcpy would cost more than the copy

template <int width>
HADAL_INLINE void copyEnds(char* to, const char* from, int64_t bytes) {  // of width … 2 · width bytes
  char head[width], tail[width];
  std::memcpy(head, from, width);
  std::memcpy(tail, from + bytes - width, width);
  std::memcpy(to, head, width);
  std::memcpy(to + bytes - width, tail, width);
}
HADAL_INLINE void copyShort(void* out, const void* in, int64_t bytes) {
  char* to = static_cast<char*>(out);
  const char* from = static_cast<const char*>(in);
  if (bytes > 1024) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  } else if (bytes >= 64) {
    for (int64_t i = 0; i + 64 < bytes; i += 64) std::memcpy(to + i, from + i, 64);
    std::memcpy(to + bytes - 64, from + bytes - 64, 64);
  } else if (bytes >= 32) {
    copyEnds<32>(to, from, bytes);
  } else if (bytes >= 16) {
    copyEnds<16>(to, from, bytes);
  } else if (bytes >= 8) {
    copyEnds<8>(to, from, bytes);
  } else {
    for (int64_t i = 0; i < bytes; i++) to[i] = from[i];
  }
}

// Σ term(i, part) over a row of n numbers, in `chains` sums beside each other: one alone waits for each addition's latency.
template <int chains, class Term>
HADAL_INLINE Vec sumOver(int64_t n, Term&& term) {
  Vec sums[chains] = {};
  int64_t i = 0;
  for (; i + chains * lanes <= n; i += chains * lanes)
    for (int c = 0; c < chains; c++) sums[c] += term(i + c * lanes, WholeVec{});
  forLanes(n - i, [&](int64_t j, auto part) { sums[0] += term(i + j, part); });
  for (int c = 1; c < chains; c++) sums[0] += sums[c];
  return sums[0];
}
// In fp32 memory is slower than one chain; numbers of 16 bits arrive twice as fast.
template <class T>
inline constexpr int sumChains = sizeof(T) == 4 ? 1 : 4;

// ---- Shuffles

template <int half, class V, int... i>
HADAL_INLINE V interleave(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (half * lanes / 2 + i / 2 + i % 2 * lanes)...);
}
// Numbers of two vectors in turn, from number `half` · lanes / 2 of each on.
template <int half, class V>
HADAL_INLINE V interleave(V a, V b) {
  return interleave<half>(a, b, std::make_integer_sequence<int, lanes>{});
}

template <int which, class V, int... i>
HADAL_INLINE V deinterleave(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (2 * i + which)...);
}
// Undoes it: the even (`which` 0) or odd (1) numbers of a and then of b.
template <int which, class V>
HADAL_INLINE V deinterleave(V a, V b) {
  return deinterleave<which>(a, b, std::make_integer_sequence<int, lanes>{});
}

// Transposes lanes × lanes numbers by log2(lanes) rounds of interleaving row i with row i + lanes / 2.
HADAL_INLINE void transpose(Vec (&x)[lanes]) {
  for (int round = 1; round < lanes; round *= 2) {
    Vec y[lanes];
    for (int i = 0; i < lanes / 2; i++) {
      y[2 * i] = interleave<0>(x[i], x[i + lanes / 2]);
      y[2 * i + 1] = interleave<1>(x[i], x[i + lanes / 2]);
    }
    for (int i = 0; i < lanes; i++) x[i] = y[i];
  }
}

// ---- Arithmetic

HADAL_INLINE Vec select(IVec mask, Vec yes, Vec no) { return mask ? yes : no; }
// The second operand where either is NaN. With AVX-512 GCC 12 makes a comparison and a masked move of a > b ? a : b.
#if defined(__AVX512F__)
HADAL_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
HADAL_INLINE Vec min(Vec a, Vec b) { return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
#else
HADAL_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
HADAL_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }
#endif

// Number i + width of x, for i < width.
template <int width, int... i>
HADAL_INLINE Vec upper(Vec x, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(x, x, ((i + width) % lanes)...);
}
// Folds the upper half onto the lower one until one number is left: the same order on every machine of these lanes.
template <int width = lanes / 2, class Join>
HADAL_INLINE float fold(Vec x, Join&& join) {
  x = join(x, upper<width>(x, std::make_integer_sequence<int, lanes>{}));
  if constexpr (width > 1)
    return fold<width / 2>(x, join);
  else
    return x[0];
}
HADAL_INLINE float sum(Vec x) {
  return fold(x, [](Vec a, Vec b) { return a + b; });
}
HADAL_INLINE float maximum(Vec x) {
  return fold(x, [](Vec a, Vec b) { return max(a, b); });
}

// ---- Products of bf16 numbers in pairs. Number i of a UVec is two of them, the one of the lower address in the lower half.
// sum[i] + a[i].low · b[i].low + a[i].high · b[i].high. One instruction where the machine has it (then numbers below 2^-126
// count as 0), four elsewhere.
#if defined(__AVX512BF16__)
inline constexpr bool hasPairProducts = true;
HADAL_INLINE Vec dotPairs(Vec sum, UVec a, UVec b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
inline constexpr bool hasPairProducts = false;
HADAL_INLINE Vec dotPairs(Vec sum, UVec a, UVec b) {
  const auto low = [](UVec x) { return reinterpret_cast<Vec>(x << 16); };
  const auto high = [](UVec x) { return reinterpret_cast<Vec>(x & 0xffff0000u); };
  return sum + low(a) * low(b) + high(a) * high(b);
}
#endif
// Two vectors as the low and high halves of pairs, rounded to bf16.
#if defined(__AVX512BF16__)
HADAL_INLINE UVec toPairs(Vec low, Vec high) {
  typedef uint16_t Halves __attribute__((vector_size(64)));
  const Halves order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  return (UVec)_mm512_maskz_permutexvar_epi16(0xffffffff, (__m512i)order, (__m512i)rounded);
}
#else
HADAL_INLINE UVec toPairs(Vec low, Vec high) { return widen(toBf16(low)) | widen(toBf16(high)) << 16; }
#endif

// ---- 2 · lanes numbers as two vectors, in the order that costs least, the same for all tensors of a type: for what is done
// to each number alone.

template <class T>
HADAL_INLINE void loadTwo(const T* p, Vec& a, Vec& b) {
  a = load(p), b = load(p + lanes);
}
HADAL_INLINE void loadTwo(const Bf16* p, Vec& a, Vec& b) {
  const UVec pairs = *reinterpret_cast<const UVec*>(p);
  a = reinterpret_cast<Vec>(pairs << 16), b = reinterpret_cast<Vec>(pairs & 0xffff0000u);
}
template <bool streams, class T>
HADAL_INLINE void putTwo(T* p, Vec a, Vec b) {
  put<streams>(p, WholeVec{}, a), put<streams>(p + lanes, WholeVec{}, b);
}
template <bool streams>
HADAL_INLINE void putTwo(Bf16* p, Vec a, Vec b) {
  put<streams>(reinterpret_cast<float*>(p), WholeVec{}, reinterpret_cast<Vec>(toPairs(a, b)));
}

// x · 2^n for whole n, rounded once.
#if defined(__AVX512F__)
HADAL_INLINE Vec scale(Vec x, Vec n) { return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)n); }
#else
HADAL_INLINE Vec scale(Vec x, Vec n) {
  const IVec whole = __builtin_convertvector(n, IVec);
  const IVec half = whole >> 1;
  const Vec a = reinterpret_cast<Vec>((half + 127) << 23), b = reinterpret_cast<Vec>((whole - half + 127) << 23);
  return x * a * b;
}
#endif

// e^x = 2^n (1 + q) for whole n: x = n ln 2 + r, q = e^r − 1 by its degree-7 polynomial. Good to about 1 ulp; NaN stays NaN.
struct ExpParts {
  Vec q, n;
};
HADAL_INLINE ExpParts expParts(Vec x) {
  const Vec clamped = min(splat(89.0f), max(splat(-104.0f), x));     // in this order NaN stays NaN
  const Vec shifted = clamped * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to integer
  const Vec n = shifted - 12582912.0f;
  const Vec r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return {p * (r * r) + r, n};
}
HADAL_INLINE Vec exp(Vec x) {  // scaled by 2^n in two steps without AVX-512: denormals, overflow
  const auto [q, n] = expParts(x);
  return scale(q + 1.0f, n);
}
HADAL_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
// Odd: m / (−2 − m) for m = e^(−2|x|) − 1, which keeps the small digits of a small x.
HADAL_INLINE Vec tanh(Vec x) {
  const UVec sign = UVec{} + 0x80000000u, bits = reinterpret_cast<UVec>(x);
  const auto [q, n] = expParts(-2.0f * reinterpret_cast<Vec>(bits & ~sign));
  const Vec power = scale(splat(1.0f), n), m = q * power + (power - 1.0f);
  return reinterpret_cast<Vec>((reinterpret_cast<UVec>(m / (-2.0f - m)) & ~sign) | (bits & sign));
}

// Calls body with a value of the storage type of a float dtype: dispatch(p.dtype, [&](auto zero) { using T = decltype(zero); … })
template <class Body>
HADAL_INLINE void dispatch(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::bf16:
      return body(Bf16{});
    case DType::fp16:
      return body(Fp16{});
    default:
      return body(float{});
  }
}

}  // namespace HADAL_ISA
}  // namespace hadal
