// What kernels say to a GPU, by name, as the host executor does it; native/cuda/nvcc/primitives.cuh says the same to nvcc,
// and explains each. What nvcc has built in is here, too, as far as kernels may use it.
#pragma once
#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "core/kernel.h"
#include "sim/convert.h"
#include "sim/executor.h"
#include "sim/stream.h"

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (::hadal::sim::state.thread)
#define blockIdx (::hadal::sim::state.block)
#define blockDim (::hadal::sim::state.blockSize)
#define gridDim (::hadal::sim::state.gridSize)

// ---- Vectors

struct float2 {
  float x, y;
} __attribute__((aligned(8)));
struct float4 {
  float x, y, z, w;
} __attribute__((aligned(16)));
struct int2 {
  int x, y;
} __attribute__((aligned(8)));
struct int4 {
  int x, y, z, w;
} __attribute__((aligned(16)));
struct uint2 {
  unsigned x, y;
} __attribute__((aligned(8)));
struct uint4 {
  unsigned x, y, z, w;
} __attribute__((aligned(16)));
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- Barriers and the warp

inline void __syncthreads(hadal::sim::Site where = hadal::sim::Site::here()) {
  hadal::sim::barrier(hadal::sim::Vote::none, false, where);
}
inline int __syncthreads_or(int value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::barrier(hadal::sim::Vote::any, value != 0, where);
}
inline int __syncthreads_and(int value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::barrier(hadal::sim::Vote::all, value != 0, where);
}
inline int __syncthreads_count(int value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::barrier(hadal::sim::Vote::count, value != 0, where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, hadal::sim::Site where = hadal::sim::Site::here()) {
  hadal::sim::syncWarp(mask, where);
}

namespace hadal {
namespace sim {

template <class T>
concept Register = std::is_arithmetic_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);
template <class T>
concept Word = std::is_integral_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

template <Register T>
inline T shuffled(Shuffle kind, unsigned mask, T value, int argument, int width, Site where) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(kind, mask, bits, argument, width, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace sim
}  // namespace hadal

template <hadal::sim::Register T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
                     hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::shuffled(hadal::sim::Shuffle::index, mask, value, lane, width, where);
}
template <hadal::sim::Register T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                        hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::shuffled(hadal::sim::Shuffle::up, mask, value, static_cast<int>(by), width, where);
}
template <hadal::sim::Register T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                          hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::shuffled(hadal::sim::Shuffle::down, mask, value, static_cast<int>(by), width, where);
}
template <hadal::sim::Register T>
inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32,
                         hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::shuffled(hadal::sim::Shuffle::exclusiveOr, mask, value, by, width, where);
}
inline unsigned __ballot_sync(unsigned mask, int value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::ballot(mask, value != 0, where);
}
inline int __any_sync(unsigned mask, int value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::ballot(mask, value != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::ballot(mask, value != 0, where) == mask;
}
template <hadal::sim::Word T>
inline unsigned __match_any_sync(unsigned mask, T value, hadal::sim::Site where = hadal::sim::Site::here()) {
  return hadal::sim::matchAny(mask, static_cast<uint64_t>(value), where);
}

#define HADAL_SIM_REDUCE(name, type, kind)                                                                           \
  inline type __reduce_##name##_sync(unsigned mask, type value, hadal::sim::Site where = hadal::sim::Site::here()) { \
    return static_cast<type>(                                                                                        \
        hadal::sim::reduce(hadal::sim::Reduction::kind, mask, static_cast<unsigned>(value), where));                 \
  }
HADAL_SIM_REDUCE(add, int, addInt)
HADAL_SIM_REDUCE(add, unsigned, addInt)
HADAL_SIM_REDUCE(min, int, minInt)
HADAL_SIM_REDUCE(min, unsigned, minUint)
HADAL_SIM_REDUCE(max, int, maxInt)
HADAL_SIM_REDUCE(max, unsigned, maxUint)
HADAL_SIM_REDUCE(and, unsigned, bitAnd)
HADAL_SIM_REDUCE(or, unsigned, bitOr)
HADAL_SIM_REDUCE(xor, unsigned, bitXor)
#undef HADAL_SIM_REDUCE

// What it returns says nothing that a kernel may rely on.
unsigned __activemask() = delete;

// ---- Memory

inline void __threadfence() { hadal::sim::fence(); }
inline void __threadfence_block() { hadal::sim::fence(); }

template <class T>
inline T __ldg(const T* address) {
  return *address;
}
template <class T>
inline T __ldcs(const T* address) {
  return *address;
}
template <class T>
inline T __ldcg(const T* address) {
  return *address;
}
template <class T>
inline void __stcs(T* address, T value) {
  *address = value;
}

namespace hadal {
namespace sim {

// Atomics order nothing but themselves.
inline constexpr int relaxed = __ATOMIC_RELAXED;

template <class T, class F>
inline T atomically([[maybe_unused]] T* address, F&& f) {
#ifdef __SANITIZE_THREAD__
  beforeAtomic(address);
  const T old = f();
  afterAtomic(address);
  return old;
#else
  return f();
#endif
}

// Replaces what is there by replacement(what is there).
template <class T, class F>
inline T replaced(T* address, F&& replacement) {
  T old = __atomic_load_n(address, relaxed);
  while (!__atomic_compare_exchange_n(address, &old, replacement(old), false, relaxed, relaxed)) {
  }
  return old;
}

}  // namespace sim
}  // namespace hadal

#define HADAL_SIM_ATOMIC(name, operation)                                     \
  template <hadal::sim::Word T>                                               \
  inline T atomic##name(T* address, std::type_identity_t<T> value) {          \
    return hadal::sim::atomically(address, [&]() -> T { return operation; }); \
  }
HADAL_SIM_ATOMIC(Add, __atomic_fetch_add(address, value, hadal::sim::relaxed))
HADAL_SIM_ATOMIC(Sub, __atomic_fetch_sub(address, value, hadal::sim::relaxed))
HADAL_SIM_ATOMIC(And, __atomic_fetch_and(address, value, hadal::sim::relaxed))
HADAL_SIM_ATOMIC(Or, __atomic_fetch_or(address, value, hadal::sim::relaxed))
HADAL_SIM_ATOMIC(Xor, __atomic_fetch_xor(address, value, hadal::sim::relaxed))
HADAL_SIM_ATOMIC(Exch, __atomic_exchange_n(address, value, hadal::sim::relaxed))
HADAL_SIM_ATOMIC(Max, hadal::sim::replaced(address, [&](T old) { return old < value ? value : old; }))
HADAL_SIM_ATOMIC(Min, hadal::sim::replaced(address, [&](T old) { return value < old ? value : old; }))
#undef HADAL_SIM_ATOMIC
template <hadal::sim::Word T>
inline T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return hadal::sim::atomically(address, [&] {
    __atomic_compare_exchange_n(address, &expected, value, false, hadal::sim::relaxed, hadal::sim::relaxed);
    return expected;
  });
}

// ---- Bits

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  x = (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
  x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
  x = (x & 0x0f0f0f0fu) << 4 | (x >> 4 & 0x0f0f0f0fu);
  return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned chosen = selector >> 4 * i & 0xf;
    unsigned byte = static_cast<unsigned>(bytes >> 8 * (chosen & 7)) & 0xff;
    if (chosen & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// ---- Arithmetic

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

namespace hadal {
namespace sim {

// Beyond the integers a conversion gives the nearest one, and 0 for NaN.
template <class I, class F>
inline I saturated(F x) {
  if (x != x) return 0;
  // Both limits' neighbours beyond the integers are powers of two, which F holds exactly.
  constexpr F above = static_cast<F>(std::numeric_limits<I>::max() / 2 + 1) * 2;
  if (x >= above) return std::numeric_limits<I>::max();
  if (x <= static_cast<F>(std::numeric_limits<I>::min())) return std::numeric_limits<I>::min();
  return static_cast<I>(x);
}

}  // namespace sim
}  // namespace hadal

inline int __float2int_rn(float x) { return hadal::sim::saturated<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return hadal::sim::saturated<int>(truncf(x)); }
inline int __float2int_rd(float x) { return hadal::sim::saturated<int>(floorf(x)); }
inline int __float2int_ru(float x) { return hadal::sim::saturated<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return hadal::sim::saturated<unsigned>(nearbyintf(x)); }
inline unsigned __float2uint_rz(float x) { return hadal::sim::saturated<unsigned>(truncf(x)); }
inline long long __float2ll_rn(float x) { return hadal::sim::saturated<long long>(nearbyintf(x)); }
inline long long __float2ll_rz(float x) { return hadal::sim::saturated<long long>(truncf(x)); }
inline int __double2int_rn(double x) { return hadal::sim::saturated<int>(nearbyint(x)); }
inline int __double2int_rz(double x) { return hadal::sim::saturated<int>(trunc(x)); }
inline long long __double2ll_rn(double x) { return hadal::sim::saturated<long long>(nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

template <class A, class B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (std::is_floating_point_v<T>)
    return x != x ? y : (y < x ? y : x);  // as fmin: a NaN gives way
  else
    return y < x ? y : x;
}
template <class A, class B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (std::is_floating_point_v<T>)
    return x != x ? y : (x < y ? y : x);
  else
    return x < y ? y : x;
}

namespace hadal {
namespace cuda {

struct F16 {
  uint16_t bits;
};

// ---- Conversions, rounded to nearest even

inline float toFloat(float x) { return x; }
inline float toFloat(Bf16 x) { return sim::floatOfBf16(x.bits); }
inline float toFloat(F16 x) { return sim::floatOfF16(x.bits); }

template <class T>
inline T fromFloat(float x);
template <>
inline float fromFloat<float>(float x) {
  return x;
}
template <>
inline Bf16 fromFloat<Bf16>(float x) {
  return {sim::bf16OfFloat(x)};
}
template <>
inline F16 fromFloat<F16>(float x) {
  return {sim::f16OfFloat(x)};
}

template <class T>
inline uint32_t packPair(float low, float high) {
  return fromFloat<T>(low).bits | static_cast<uint32_t>(fromFloat<T>(high).bits) << 16;
}

// ---- Arithmetic

inline float exp2Approximate(float x) {
  const float y = exp2f(fabsf(x) < 0x1p-126f ? 0.0f : x);
  return y < 0x1p-126f ? 0.0f : y;
}

// ---- Shared memory

template <class T>
inline T& shared(sim::Site where = sim::Site::here()) {
  return *reinterpret_cast<T*>(sim::sharedMemory(sizeof(T), where));
}

// ---- Copies from global to shared memory

inline void copyAsync16(void* shared, const void* global, bool isWanted, sim::Site where = sim::Site::here()) {
  sim::copyAsync(shared, global, 16, isWanted, where);
}
inline void copyAsync4(void* shared, const void* global, bool isWanted, sim::Site where = sim::Site::here()) {
  sim::copyAsync(shared, global, 4, isWanted, where);
}
inline void commitCopies() { sim::commitCopies(); }
template <int pending>
inline void awaitCopies() {
  sim::awaitCopies(pending);
}

// ---- Matrices of 8×8 numbers of 16 bits, and their products

inline void loadMatrices4(uint32_t (&r)[4], const void* row, sim::Site where = sim::Site::here()) {
  sim::loadMatrices(r, row, 4, false, where);
}
inline void loadMatrices4Transposed(uint32_t (&r)[4], const void* row, sim::Site where = sim::Site::here()) {
  sim::loadMatrices(r, row, 4, true, where);
}
inline void loadMatrices2(uint32_t (&r)[2], const void* row, sim::Site where = sim::Site::here()) {
  sim::loadMatrices(r, row, 2, false, where);
}
inline void loadMatrices2Transposed(uint32_t (&r)[2], const void* row, sim::Site where = sim::Site::here()) {
  sim::loadMatrices(r, row, 2, true, where);
}

template <class T>
inline void multiplyAdd(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        sim::Site where = sim::Site::here()) {
  static_assert(std::is_same_v<T, Bf16> || std::is_same_v<T, F16>);
  sim::multiplyAdd(d, a, b, std::is_same_v<T, Bf16>, where);
}

// ---- Launches

using Grid = sim::LaunchGrid;

template <auto body, int threads, int blocksPerProcessor = 1, class... Args>
void launch(RunContext& context, Grid grid, Args... args) {
  static_assert(sizeof...(Args) < sim::maxArguments && (sizeof(Args) + ... + sizeof(sim::Gate)) <= 4096,
                "a kernel has at most 4096 bytes of parameters");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || context.failed) return;
  struct Queued : sim::QueuedLaunch {
    explicit Queued(Args... values) : values(values...) {}
    std::tuple<Args...> values;
  };
  auto queued = std::make_shared<Queued>(args...);
  queued->name = __PRETTY_FUNCTION__;
  queued->grid = grid;
  queued->threads = threads;
  queued->gate = {context.predicate, context.fault, context.nextLaunch()};
  context.launches++;
  queued->run = [](void* const* arguments) {
    [&]<size_t... at>(std::index_sequence<at...>) { body(*static_cast<Args*>(arguments[1 + at])...); }
    (std::index_sequence_for<Args...>());
  };
  queued->add(&queued->gate, sizeof(sim::Gate), false);
  std::apply([&](auto&... value) { (queued->add(&value, sizeof(value), std::is_pointer_v<Args>), ...); },
             queued->values);
  if (const char* error = sim::enqueue(context.stream, queued))
    context.fail("[cuda] cannot launch %u x %u x %u blocks of %d threads with %zu bytes of shared memory: %s (%s)",
                 grid.x, grid.y, grid.z, threads, grid.sharedBytes, error, __PRETTY_FUNCTION__);
}

}  // namespace cuda
}  // namespace hadal
