// What kernels say to a GPU, by name, as nvcc compiles it. native/sim/primitives.cuh says the same to the host executor;
// which of the two a build takes follows from its include path. Everything that is not plain C++ is here.
#pragma once
#include <cuda_runtime.h>

#include "core/kernel.h"

namespace hadal {
namespace cuda {

// Storage of an IEEE half; Bf16 is that of a bfloat16.
struct F16 {
  uint16_t bits;
};

// ---- Conversions, rounded to nearest even

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(Bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ __forceinline__ float toFloat(F16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

template <class T>
__device__ __forceinline__ T fromFloat(float x);
template <>
__device__ __forceinline__ float fromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Bf16 fromFloat<Bf16>(float x) {
  Bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
__device__ __forceinline__ F16 fromFloat<F16>(float x) {
  F16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// Two numbers of 16 bits in a register, `low` in the lower half: the form of mma's operands.
template <class T>
__device__ __forceinline__ uint32_t packPair(float low, float high);
template <>
__device__ __forceinline__ uint32_t packPair<Bf16>(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <>
__device__ __forceinline__ uint32_t packPair<F16>(float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

// ---- Arithmetic

// 2^x to 2 ulp, denormals flushed: the exact one costs a hundred instructions in a loop of attention.
__device__ __forceinline__ float exp2Approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- Shared memory: all of it is dynamic, a block's whole share seen as one T; launch() is told how many bytes.

template <class T>
__device__ __forceinline__ T& shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return *reinterpret_cast<T*>(memory);
}

// ---- Copies from global to shared memory that go on while the thread works. What a thread copied is there for itself
// after awaitCopies, for the other threads of the block after a __syncthreads() behind it.

__device__ __forceinline__ uint32_t sharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
// 16 bytes, both sides aligned to 16; zeros where not `isWanted`, and `global` is not read then (but must be an address).
__device__ __forceinline__ void copyAsync16(void* shared, const void* global, bool isWanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global),
               "r"(isWanted ? 16 : 0)
               : "memory");
}
// 4 bytes, both sides aligned to 4.
__device__ __forceinline__ void copyAsync4(void* shared, const void* global, bool isWanted) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(sharedAddress(shared)), "l"(global),
               "r"(isWanted ? 4 : 0)
               : "memory");
}
// Ends a group of copies.
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the `pending` youngest groups are under way.
template <int pending>
__device__ __forceinline__ void awaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- Matrices of 8×8 numbers of 16 bits, and their products. By all 32 lanes of a warp together.

// Four matrices: lane l gives the address of row l mod 8 of matrix l / 8 (16 bytes, aligned to 16), and gets of matrix i, in
// r[i], numbers 2·(l mod 4) and the next of row l / 4.
__device__ __forceinline__ void loadMatrices4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}
// The same of the transposed matrices: lane l gets numbers 2·(l mod 4) and the next of column l / 4.
__device__ __forceinline__ void loadMatrices4Transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}
// Two matrices, whose rows lanes 0…15 give; the others' addresses must be valid, too.
__device__ __forceinline__ void loadMatrices2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(sharedAddress(row))
               : "memory");
}
__device__ __forceinline__ void loadMatrices2Transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(sharedAddress(row))
               : "memory");
}

// d += a·b for a 16×16 (rows), b 16×8 (columns), d 16×8 fp32; registers as PTX ISA 9.7.14.5.8 (m16n8k16) says. With
// g = lane / 4, t = lane mod 4: a[0] (row g, columns 2t, 2t+1), a[1] (g+8, same), a[2] (g, 2t+8…), a[3] (g+8, 2t+8…);
// b[0] (rows 2t, 2t+1, column g), b[1] (2t+8…, g); d[0], d[1] (row g, columns 2t, 2t+1), d[2], d[3] (row g+8).
template <class T>
__device__ __forceinline__ void multiplyAdd(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void multiplyAdd<Bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void multiplyAdd<F16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Launches

// What decides on the device whether a kernel does anything: not where the predicate says 0, and not after a fault of an
// earlier launch, so that a step with bad data leaves parameters as they were. Its own must not end it: threads of a block that
// come later would leave those before them alone at a barrier.
struct Gate {
  const int32_t* predicate;
  const Fault* fault;
  int32_t launch;
};

template <auto body, int threads, int blocksPerProcessor, class... Args>
__global__ void __launch_bounds__(threads, blocksPerProcessor) entry(Gate gate, Args... args) {
  if (gate.predicate && *gate.predicate == 0) return;
  const int32_t raised = gate.fault->isRaised;
  if (raised != 0 && raised != 1 + gate.launch) return;
  body(args...);
}

// How many blocks, in up to three dimensions, and the bytes of shared memory of each.
struct Grid {
  unsigned x = 1, y = 1, z = 1;
  size_t sharedBytes = 0;
};

// Puts body(args…), a __device__ function, on the instruction's stream. A grid without blocks is no launch. What went wrong
// is told with the kernel's name, through the context.
template <auto body, int threads, int blocksPerProcessor = 1, class... Args>
void launch(RunContext& context, Grid grid, Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || context.failed) return;
  auto* const kernel = entry<body, threads, blocksPerProcessor, Args...>;
  cudaError_t error = cudaSuccess;
  if (grid.sharedBytes > 48 * 1024)
    error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.sharedBytes));
  if (error == cudaSuccess) {
    kernel<<<dim3(grid.x, grid.y, grid.z), threads, grid.sharedBytes, static_cast<cudaStream_t>(context.stream)>>>(
        Gate{context.predicate, context.fault, context.nextLaunch()}, args...);
    error = cudaGetLastError();
    context.launches++;
  }
  if (error != cudaSuccess) {
    cudaGetLastError();  // where it is not the launch's, which would be blamed on the next one
    context.fail("[cuda] cannot launch %u x %u x %u blocks of %d threads with %zu bytes of shared memory: %s (%s)",
                 grid.x, grid.y, grid.z, threads, grid.sharedBytes, cudaGetErrorString(error), __PRETTY_FUNCTION__);
  }
}

}  // namespace cuda
}  // namespace hadal
