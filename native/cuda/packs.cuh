// Numbers that a thread loads and stores 16 bytes at a time, rows that a warp or a block takes, and division of indices.
#pragma once
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {

// ---- Packs. `isWide` says that whole packs may be moved at once: addresses and rows are multiples of their size. Where not,
// numbers are moved one by one: `left` are there, the others of the pack are zeros.

template <class T, int n>
__device__ __forceinline__ Pack<T, n> loadPack(const T* from, int64_t left, bool isWide) {
  if (isWide) return *reinterpret_cast<const Pack<T, n>*>(from);
  Pack<T, n> pack{};
#pragma unroll
  for (int j = 0; j < n; j++)
    if (j < left) pack.at[j] = from[j];
  return pack;
}
template <class T, int n>
__device__ __forceinline__ void storePack(T* to, int64_t left, bool isWide, const Pack<T, n>& pack) {
  if (isWide) {
    *reinterpret_cast<Pack<T, n>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int j = 0; j < n; j++)
    if (j < left) to[j] = pack.at[j];
}

// The same of numbers as fp32, in packs of at most 16 bytes.
template <int n, class T>
__device__ __forceinline__ void loadNumbers(float (&x)[n], const T* from, int64_t left, bool isWide) {
  constexpr int width = n < packed<T> ? n : packed<T>;
#pragma unroll
  for (int k = 0; k < n; k += width) {
    const Pack<T, width> pack = loadPack<T, width>(from + k, left - k, isWide);
#pragma unroll
    for (int j = 0; j < width; j++) x[k + j] = toFloat(pack.at[j]);
  }
}
template <int n, class T>
__device__ __forceinline__ void storeNumbers(T* to, int64_t left, bool isWide, const float (&x)[n]) {
  constexpr int width = n < packed<T> ? n : packed<T>;
#pragma unroll
  for (int k = 0; k < n; k += width) {
    Pack<T, width> pack;
#pragma unroll
    for (int j = 0; j < width; j++) pack.at[j] = fromFloat<T>(x[k + j]);
    storePack<T, width>(to + k, left - k, isWide, pack);
  }
}
// From number `at` on, of a float dtype known at run time: for what is not a kernel's bulk.
template <int n>
__device__ __forceinline__ void loadNumbers(float (&x)[n], const void* from, DType dtype, int64_t at, int64_t left,
                                            bool isWide) {
  if (dtype == DType::bf16)
    loadNumbers(x, static_cast<const Bf16*>(from) + at, left, isWide);
  else if (dtype == DType::fp16)
    loadNumbers(x, static_cast<const F16*>(from) + at, left, isWide);
  else
    loadNumbers(x, static_cast<const float*>(from) + at, left, isWide);
}
template <int n>
__device__ __forceinline__ void storeNumbers(void* to, DType dtype, int64_t at, int64_t left, bool isWide,
                                             const float (&x)[n]) {
  if (dtype == DType::bf16)
    storeNumbers(static_cast<Bf16*>(to) + at, left, isWide, x);
  else if (dtype == DType::fp16)
    storeNumbers(static_cast<F16*>(to) + at, left, isWide, x);
  else
    storeNumbers(static_cast<float*>(to) + at, left, isWide, x);
}

// Whether rows of `dim` numbers from these addresses on (null ones do not count) are made of whole packs of 16 bytes.
template <class T, class... Addresses>
bool areWide(int64_t dim, Addresses... rows) {
  return dim % packed<T> == 0 && (isAligned(rows, 16) && ...);
}

// x + y, rounded to T.
template <class T, int n>
__device__ __forceinline__ void addPack(Pack<T, n>& x, const Pack<T, n>& y) {
#pragma unroll
  for (int j = 0; j < n; j++) x.at[j] = fromFloat<T>(toFloat(x.at[j]) + toFloat(y.at[j]));
}

// ---- Rows. A thread takes every rowThreads-th pack of a row. Kernels that need a row twice read it twice: it is in L1 then, which
// delivers eight times as fast as memory, and registers are left for more rows under way.

// Threads that take a row of so many bytes together: a warp, of which a lane then takes at most four packs, or a block.
constexpr int64_t warpRowBytes = 4 * 16 * warpSize;
inline int rowThreadsFor(int64_t rowBytes) { return rowBytes <= warpRowBytes ? warpSize : threads; }

// Over the threads of a row; `shared` holds a number a warp.
__device__ __forceinline__ float rowSum(float x, int rowThreads, float* shared) {
  return rowThreads == warpSize ? warpSum(x) : blockSum<threads>(x, shared);
}
__device__ __forceinline__ float rowMax(float x, int rowThreads, float* shared) {
  return rowThreads == warpSize ? warpMax(x) : blockMax<threads>(x, shared);
}

// Aligned, since other arrays may follow it.
struct alignas(16) RowShared {
  float warps[threads / warpSize];
};

// ---- Division by a number that the host knows: by a product and a shift (Granlund & Montgomery 1994), of numbers below 2^31 in
// 32 bits. The division of a GPU takes dozens of instructions, and registers of its own.

struct Divider {
  int64_t divisor = 1;
  uint64_t magic = 1;
  uint32_t smallMagic = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(d) {
    if (d < 1) return;  // of an empty tensor: nobody divides
    while (int64_t{1} << shift < d) shift++;
    const uint64_t lacking = (uint64_t{1} << shift) - static_cast<uint64_t>(d);
    magic = static_cast<uint64_t>((static_cast<unsigned __int128>(lacking) << 64) / static_cast<uint64_t>(d)) + 1;
    if (d >> 31 == 0) smallMagic = static_cast<uint32_t>((lacking << 32) / static_cast<uint64_t>(d)) + 1;
  }
  // ⌊x / divisor⌋ for x ≥ 0; `rest` becomes what is left.
  __device__ __forceinline__ int64_t divide(int64_t x, int64_t& rest) const {
    int64_t quotient;
    if ((x | divisor) >> 31 == 0) {
      const uint32_t small = static_cast<uint32_t>(x);
      quotient = (__umulhi(small, smallMagic) + small) >> shift;
    } else {
      const uint64_t large = static_cast<uint64_t>(x);
      const uint64_t high = static_cast<uint64_t>(static_cast<unsigned __int128>(large) * magic >> 64);
      quotient = static_cast<int64_t>((high + large) >> shift);
    }
    rest = x - quotient * divisor;
    return quotient;
  }
};

}  // namespace cuda
}  // namespace hadal
