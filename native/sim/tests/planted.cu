// Faults on purpose, each beside the same code without it: `isFaulty` is the only difference. test/sim/planted.test.ts says
// who must find which.
#include "trial.h"

namespace hadal {
namespace cuda {
namespace planted {

constexpr int block = 64;

// ---- Threads that never meet

template <bool isFaulty>
__device__ void divergentBarriers(float* y) {
  auto& s = shared<float[block]>();
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (isFaulty && threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = s[block - 1 - threadIdx.x];
}

template <bool isFaulty>
__device__ void exitBeforeBarrier(float* y, int count) {
  auto& s = shared<float[block]>();
  const int i = static_cast<int>(threadIdx.x);
  if (isFaulty && i >= count) return;
  s[i] = static_cast<float>(i);
  __syncthreads();
  if (i < count) y[i] = s[i ^ 1];
}

template <bool isFaulty>
__device__ void exitBeforeShuffle(float* y, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (isFaulty && i >= count) return;
  const float sum = warpSum(i < count ? 1.0f : 0.0f);
  if (i < count) y[i] = sum;
}

template <bool isFaulty>
__device__ void laneOutsideMask(float* y) {
  float x = static_cast<float>(laneId());
  if (laneId() < 16) x = __shfl_sync(0xffffu, x, isFaulty ? 31 : 15);
  y[threadIdx.x] = x;
}

template <bool isFaulty>
__device__ void maskWithoutItself(float* y) {
  y[threadIdx.x] = __shfl_xor_sync(isFaulty ? 0x7fffffffu : wholeWarp, static_cast<float>(laneId()), 1);
}

template <bool isFaulty>
__device__ void differentMasks(float* y) {
  const unsigned mask = isFaulty && laneId() < 16 ? 0xffffu | 0x10000u : wholeWarp;
  y[threadIdx.x] = static_cast<float>(__popc(__ballot_sync(mask, 1)));
}

template <bool isFaulty>
__device__ void differentOperations(float* y) {
  float x = static_cast<float>(laneId());
  if (isFaulty && laneId() < 16)
    x = static_cast<float>(__ballot_sync(wholeWarp, 1));
  else
    x = __shfl_sync(wholeWarp, x, 0);
  y[threadIdx.x] = x;
}

template <bool isFaulty>
__device__ void maskBeyondBlock(float* y) {  // launched with 16 threads
  y[threadIdx.x] = static_cast<float>(__popc(__ballot_sync(isFaulty ? wholeWarp : 0xffffu, 1)));
}

template <bool isFaulty>
__device__ void productByHalfAWarp(float* y) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (!isFaulty || laneId() < 16) multiplyAdd<Bf16>(d, a, b);
  y[threadIdx.x] = d[0];
}

template <bool isFaulty>
__device__ void matricesByHalfAWarp(uint32_t* y) {
  auto& s = shared<uint32_t[8 * 4 * 4]>();
  for (int i = laneId(); i < 128; i += warpSize) s[i] = static_cast<uint32_t>(i);
  __syncwarp();
  uint32_t r[4] = {};
  if (!isFaulty || laneId() < 16) loadMatrices4(r, &s[laneId() * 4]);
  y[threadIdx.x] = r[0];
}

template <bool isFaulty>
__device__ void misalignedMatrixRow(uint32_t* y) {
  auto& s = shared<uint16_t[40 * 8]>();
  for (int i = laneId(); i < 320; i += warpSize) s[i] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t r[4];
  loadMatrices4(r, &s[laneId() * (isFaulty ? 9 : 8)]);
  y[threadIdx.x] = r[0];
}

template <bool isFaulty>
__device__ void misalignedCopy(const float* x, float* y) {
  auto& s = shared<float[4 * block]>();
  const int i = static_cast<int>(threadIdx.x);
  copyAsync16(&s[4 * i], x + 4 * i + isFaulty, true);
  commitCopies();
  awaitCopies<0>();
  y[i] = s[4 * i];
}

template <bool isFaulty>
__device__ void tooLittleShared(float* y) {
  auto& s = shared<float[isFaulty ? 2 * block : block]>();
  s[threadIdx.x] = 1;
  y[threadIdx.x] = s[threadIdx.x];
}

// ---- Out of bounds

template <bool isFaulty>
__device__ void pastSharedMemory(float* y) {
  float* s = shared<float[block]>();
  s[threadIdx.x + isFaulty] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = static_cast<float>(threadIdx.x);
}

template <bool isFaulty>
__device__ void beforeSharedMemory(float* y) {
  float* s = shared<float[block]>();
  s[static_cast<int>(threadIdx.x) - isFaulty] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = static_cast<float>(threadIdx.x);
}

template <bool isFaulty>
__device__ void pastGlobalWrite(float* y, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (isFaulty ? i <= count : i < count) y[i] = static_cast<float>(i);
}

template <bool isFaulty>
__device__ void pastGlobalRead(const float* x, float* y, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) y[i] = __float_as_int(x[i + isFaulty]) == 0x12345678 ? -1.0f : static_cast<float>(i);
}

template <bool isFaulty>
__device__ void farOutside(float* y) {
  y[threadIdx.x + (isFaulty ? 1 << 20 : 0)] = static_cast<float>(threadIdx.x);
}

// ---- Memory that holds nothing yet

template <bool isFaulty>
__device__ void uninitialisedShared(float* y) {
  auto& s = shared<float[block]>();
  if (!isFaulty || threadIdx.x % 2 == 0) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x] + s[threadIdx.x ^ 1];
}

template <bool isFaulty>
__device__ void uninitialisedGlobal(float* sums, float* y) {
  if (!isFaulty) sums[threadIdx.x] = 0;
  sums[threadIdx.x] += 1;
  y[threadIdx.x] = sums[threadIdx.x];
}

template <bool isFaulty>
__device__ void copyNotAwaited(const float* x, float* y) {
  auto& s = shared<float[2][4 * block]>();
  const int i = static_cast<int>(threadIdx.x);
  for (int k = 0; k < 2; k++) {
    copyAsync16(&s[k][4 * i], x + 4 * i, true);
    commitCopies();
  }
  awaitCopies<isFaulty ? 1 : 0>();
  y[i] = s[1][4 * i];
}

template <bool isFaulty>
__device__ void groupNotCommitted(const float* x, float* y) {
  auto& s = shared<float[4 * block]>();
  const int i = static_cast<int>(threadIdx.x);
  copyAsync16(&s[4 * i], x + 4 * i, true);
  if (!isFaulty) commitCopies();
  awaitCopies<0>();
  y[i] = s[4 * i];
}

// ---- Order in memory

template <bool isFaulty>
__device__ void copyWithoutBarrier(const float* x, float* y) {
  auto& s = shared<float[4 * block]>();
  const int i = static_cast<int>(threadIdx.x);
  copyAsync16(&s[4 * i], x + 4 * i, true);
  commitCopies();
  awaitCopies<0>();
  if (!isFaulty) __syncthreads();
  y[i] = s[4 * (block - 1 - i)];
}

template <bool isFaulty>
__device__ void readBeforeWritten(float* y) {
  auto& s = shared<float[block]>();
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!isFaulty) __syncthreads();
  y[threadIdx.x] = s[block - 1 - threadIdx.x];
}

// The next round's writes may come before the last round's reads. With thread 0 as the only writer, forward and reverse order
// run it first or last of all, never between others: one of them sees nothing, and a value that rounds share hides it from both.
template <bool isFaulty>
__device__ void reusedTooEarly(float* y) {
  auto& s = shared<float[1]>();
  float sum = 0;
  for (int round = 0; round < 4; round++) {
    if (threadIdx.x == 0) s[0] = static_cast<float>(round);
    __syncthreads();
    sum += s[0];
    if (!isFaulty) __syncthreads();
  }
  y[threadIdx.x] = sum;
}

template <bool isFaulty>
__device__ void warpNotSynchronised(float* y) {
  auto& s = shared<float[block]>();
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!isFaulty) __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 31];
}

template <bool isFaulty>
__device__ void warpForBlock(float* y) {
  auto& s = shared<float[block]>();
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (isFaulty)
    __syncwarp();
  else
    __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 32];
}

// A shuffle meets, but orders nothing in memory.
template <bool isFaulty>
__device__ void shuffleAsFence(float* y) {
  auto& s = shared<float[block]>();
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  __shfl_xor_sync(wholeWarp, 0, 1);
  if (!isFaulty) __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}

template <bool isFaulty>
__device__ void sumWithoutAtomics(int* sum) {
  if (isFaulty)
    *sum += 1;
  else
    atomicAdd(sum, 1);
}

template <bool isFaulty>
__device__ void blocksOverlap(float* y) {  // a block takes 64 numbers; the faulty one an additional one of the next's
  y[blockIdx.x * block + threadIdx.x] = 1;
  if (isFaulty && threadIdx.x == 0) y[(blockIdx.x + 1) * block] = 1;
}

// The last block to come adds what all have written.
template <bool isFaulty>
__device__ void lastBlockWithoutFence(float* partial, unsigned* ticket, float* y) {
  auto& isLast = shared<int>();
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = static_cast<float>(blockIdx.x);
    if (!isFaulty) __threadfence();
    isLast = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (!isFaulty) __threadfence();
  }
  __syncthreads();
  if (!isLast || threadIdx.x != 0) return;
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += partial[b];
  *y = sum;
}

// ---- Host code

__device__ void fill(float* y, float value) { y[threadIdx.x] = value; }
__device__ void addOne(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x] + 1; }
__device__ void nothing() {}

template <bool isFaulty>
void unsynchronisedRead(Trial& t) {
  float* const x = t.device<float>(block);
  float* const host = t.pinned<float>(block);
  launch<fill, block>(t.context, {}, x, 3.0f);
  t.must(cudaMemcpyAsync(host, x, block * 4, cudaMemcpyDeviceToHost, t.stream));
  if (!isFaulty) t.synchronize();
  t.expect(std::vector<float>(host, host + block), [](size_t) { return 3; });
}

template <bool isFaulty>
void missingEvent(Trial& t) {
  cudaStream_t other;
  cudaEvent_t filled;
  t.must(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  t.must(cudaEventCreateWithFlags(&filled, cudaEventDisableTiming));
  float* const x = t.device<float>(block);
  float* const y = t.device<float>(block);
  launch<fill, block>(t.context, {}, x, 3.0f);
  t.must(cudaEventRecord(filled, t.stream));
  if (!isFaulty) t.must(cudaStreamWaitEvent(other, filled));
  t.context.stream = other;
  launch<addOne, block>(t.context, {}, static_cast<const float*>(x), y);
  t.must(cudaStreamSynchronize(other));
  t.synchronize();
  t.expect(t.read(y, block), [](size_t) { return 4; });
}

template <bool isFaulty>
void stagingUsedAgain(Trial& t) {
  float* const host = t.pinned<float>(block);
  float* const x = t.device<float>(block);
  for (int i = 0; i < block; i++) host[i] = 3;
  t.must(cudaMemcpyAsync(x, host, block * 4, cudaMemcpyHostToDevice, t.stream));
  if (!isFaulty) t.synchronize();
  for (int i = 0; i < block; i++) host[i] = 5;
  t.expect(t.read(x, block), [](size_t) { return 3; });
}

template <bool isFaulty>
void hostPointer(Trial& t) {
  std::vector<float> host(block, 1.0f);
  float* const x = t.device(host);
  float* const y = t.device<float>(block);
  launch<addOne, block>(t.context, {}, static_cast<const float*>(isFaulty ? host.data() : x), y);
  t.expect(t.read(y, block), [](size_t) { return 2; });
}

template <bool isFaulty>
void freedMemory(Trial& t) {
  float* const x = t.device(std::vector<float>(block, 1.0f));
  float* const y = t.device<float>(block);
  if (isFaulty) t.must(cudaFree(x));
  launch<addOne, block>(t.context, {}, static_cast<const float*>(x), y);
  t.expect(t.read(y, block), [](size_t) { return 2; });
}

template <bool isFaulty>
void copyLeavesAllocation(Trial& t) {
  float* const x = t.device<float>(block);
  const std::vector<float> host(2 * block, 1.0f);
  t.must(cudaMemcpy(x, host.data(), block * (isFaulty ? 8 : 4), cudaMemcpyHostToDevice));
}

template <bool isFaulty>
void wrongKind(Trial& t) {
  float* const x = t.device<float>(block);
  float* const y = t.device<float>(block);
  t.must(cudaMemcpyAsync(y, x, block * 4, isFaulty ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice, t.stream));
}

template <bool isFaulty>
void tooLargeGrid(Trial& t) {
  launch<nothing, block>(t.context, {.x = 1, .y = isFaulty ? 65536u : 2u});
}

template <bool isFaulty>
void tooMuchShared(Trial& t) {
  launch<nothing, block>(t.context, {.sharedBytes = (isFaulty ? 164 : 163) * 1024});
}

template <bool isFaulty>
void waitWhileCapturing(Trial& t) {
  float* const x = t.device<float>(block);
  cudaGraph_t graph;
  t.must(cudaStreamBeginCapture(t.stream, cudaStreamCaptureModeThreadLocal));
  launch<fill, block>(t.context, {}, x, 1.0f);
  if (isFaulty) t.synchronize();
  t.must(cudaStreamEndCapture(t.stream, &graph));
}

template <bool isFaulty>
void streamNotJoined(Trial& t) {
  cudaStream_t other;
  cudaEvent_t begun, done;
  cudaGraph_t graph;
  t.must(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  t.must(cudaEventCreateWithFlags(&begun, cudaEventDisableTiming));
  t.must(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
  float* const x = t.device<float>(block);
  t.must(cudaStreamBeginCapture(t.stream, cudaStreamCaptureModeThreadLocal));
  t.must(cudaEventRecord(begun, t.stream));
  t.must(cudaStreamWaitEvent(other, begun));
  t.context.stream = other;
  launch<fill, block>(t.context, {}, x, 1.0f);
  t.must(cudaEventRecord(done, other));
  if (!isFaulty) t.must(cudaStreamWaitEvent(t.stream, done));
  t.must(cudaStreamEndCapture(t.stream, &graph));
}

// In a graph, what no event orders runs in any order.
template <bool isFaulty>
void graphWithoutEdge(Trial& t) {
  cudaStream_t other;
  cudaEvent_t begun, filled, done;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  t.must(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  for (cudaEvent_t* event : {&begun, &filled, &done}) t.must(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  float* const x = t.device<float>(block);
  float* const y = t.device<float>(block);
  t.must(cudaStreamBeginCapture(t.stream, cudaStreamCaptureModeThreadLocal));
  t.must(cudaEventRecord(begun, t.stream));
  t.must(cudaStreamWaitEvent(other, begun));
  launch<fill, block>(t.context, {}, x, 3.0f);
  t.must(cudaEventRecord(filled, t.stream));
  if (!isFaulty) t.must(cudaStreamWaitEvent(other, filled));
  t.context.stream = other;
  launch<addOne, block>(t.context, {}, static_cast<const float*>(x), y);
  t.must(cudaEventRecord(done, other));
  t.must(cudaStreamWaitEvent(t.stream, done));
  t.must(cudaStreamEndCapture(t.stream, &graph));
  t.must(cudaGraphInstantiate(&executable, graph));
  t.must(cudaGraphLaunch(executable, t.stream));
  t.expect(t.read(y, block), [](size_t) { return 4; });
}

}  // namespace planted

#define HADAL_PAIR(name, ...)          \
  {name,                               \
   [](Trial& t) {                      \
     constexpr bool isFaulty = true;   \
     __VA_ARGS__                       \
   }},                                 \
  {                                    \
    name "-clean", [](Trial& t) {      \
      constexpr bool isFaulty = false; \
      __VA_ARGS__                      \
    }                                  \
  }

std::vector<Case> plantedFaults() {
  using namespace planted;
  constexpr size_t floats = block * 4;
  static const auto one = [](size_t) { return 1; };
#define HADAL_KERNEL_PAIR(name, kernel, blockThreads, bytes, expected)                        \
  HADAL_PAIR(name, {                                                                          \
    auto* const y = t.device<float>(block);                                                   \
    launch<kernel<isFaulty>, blockThreads>(t.context, {.sharedBytes = bytes}, y);             \
    t.expect(t.read(y, blockThreads), [](size_t i) { return static_cast<float>(expected); }); \
  })
  return {
    HADAL_KERNEL_PAIR("divergent-barriers", divergentBarriers, block, floats, block - 1 - i),
        HADAL_PAIR("exit-before-barrier",
                   {
                     auto* const y = t.device<float>(block);
                     launch<exitBeforeBarrier<isFaulty>, block>(t.context, {.sharedBytes = floats}, y, 40);
                     t.expect(t.read(y, 40), [](size_t i) { return i ^ 1; });
                   }),
        HADAL_PAIR("exit-before-shuffle",
                   {
                     auto* const y = t.device<float>(block);
                     launch<exitBeforeShuffle<isFaulty>, 32>(t.context, {}, y, 20);
                     t.expect(t.read(y, 20), [](size_t) { return 20; });
                   }),
        HADAL_KERNEL_PAIR("lane-outside-mask", laneOutsideMask, 32, 0, i < 16 ? 15 : i),
        HADAL_KERNEL_PAIR("mask-without-itself", maskWithoutItself, 32, 0, (i ^ 1)),
        HADAL_KERNEL_PAIR("different-masks", differentMasks, 32, 0, 32 + 0 * i),
        HADAL_KERNEL_PAIR("different-operations", differentOperations, 32, 0, 0 * i),
        HADAL_KERNEL_PAIR("mask-beyond-block", maskBeyondBlock, 16, 0, 16 + 0 * i),
        HADAL_KERNEL_PAIR("product-by-half-a-warp", productByHalfAWarp, 32, 0, 0 * i),
        HADAL_PAIR("matrices-by-half-a-warp",
                   {
                     auto* const y = t.device<uint32_t>(block);
                     launch<matricesByHalfAWarp<isFaulty>, 32>(t.context, {.sharedBytes = 512}, y);
                     t.expect(t.read(y, 32), [](size_t i) { return i; });
                   }),
        HADAL_PAIR("misaligned-matrix-row",
                   {
                     auto* const y = t.device<uint32_t>(block);
                     launch<misalignedMatrixRow<isFaulty>, 32>(t.context, {.sharedBytes = 640}, y);
                     t.expect(t.read(y, 32), [](size_t i) { return 2 * i | (2 * i + 1) << 16; });
                   }),
        HADAL_PAIR("misaligned-copy",
                   {
                     auto* const x = t.device(std::vector<float>(5 * block, 1.0f));
                     auto* const y = t.device<float>(block);
                     launch<misalignedCopy<isFaulty>, block>(t.context, {.sharedBytes = 4 * floats},
                                                             static_cast<const float*>(x), y);
                     t.expect(t.read(y, block), one);
                   }),
        HADAL_KERNEL_PAIR("too-little-shared", tooLittleShared, block, floats, 1 + 0 * i),
        HADAL_KERNEL_PAIR("past-shared-memory", pastSharedMemory, block, floats, i),
        HADAL_KERNEL_PAIR("before-shared-memory", beforeSharedMemory, block, floats, i),
        HADAL_PAIR("past-global-write",
                   {
                     auto* const y = t.device<float>(block - 1);
                     launch<pastGlobalWrite<isFaulty>, block>(t.context, {}, y, block - 1);
                     t.expect(t.read(y, block - 1), [](size_t i) { return i; });
                   }),
        HADAL_PAIR("past-global-read",
                   {
                     auto* const x = t.device(std::vector<float>(block - 1, 1.0f));
                     auto* const y = t.device<float>(block - 1);
                     launch<pastGlobalRead<isFaulty>, block>(t.context, {}, static_cast<const float*>(x), y, block - 1);
                     t.expect(t.read(y, block - 1), [](size_t i) { return i; });
                   }),
        HADAL_KERNEL_PAIR("far-outside", farOutside, block, 0, i),
        HADAL_KERNEL_PAIR("uninitialised-shared", uninitialisedShared, block, floats, 2 + 0 * i),
        HADAL_PAIR("uninitialised-global",
                   {
                     auto* const sums = t.device<float>(block);
                     auto* const y = t.device<float>(block);
                     launch<uninitialisedGlobal<isFaulty>, block>(t.context, {}, sums, y);
                     t.expect(t.read(y, block), one);
                   }),
        HADAL_PAIR("copy-not-awaited",
                   {
                     auto* const x = t.device(std::vector<float>(4 * block, 1.0f));
                     auto* const y = t.device<float>(block);
                     launch<copyNotAwaited<isFaulty>, block>(t.context, {.sharedBytes = 8 * floats},
                                                             static_cast<const float*>(x), y);
                     t.expect(t.read(y, block), one);
                   }),
        HADAL_PAIR("group-not-committed",
                   {
                     auto* const x = t.device(std::vector<float>(4 * block, 1.0f));
                     auto* const y = t.device<float>(block);
                     launch<groupNotCommitted<isFaulty>, block>(t.context, {.sharedBytes = 4 * floats},
                                                                static_cast<const float*>(x), y);
                     t.expect(t.read(y, block), one);
                   }),
        HADAL_PAIR("copy-without-barrier",
                   {
                     auto* const x = t.device(std::vector<float>(4 * block, 1.0f));
                     auto* const y = t.device<float>(block);
                     launch<copyWithoutBarrier<isFaulty>, block>(t.context, {.sharedBytes = 4 * floats},
                                                                 static_cast<const float*>(x), y);
                     t.expect(t.read(y, block), one);
                   }),
        HADAL_KERNEL_PAIR("read-before-written", readBeforeWritten, block, floats, block - 1 - i),
        HADAL_KERNEL_PAIR("reused-too-early", reusedTooEarly, block, sizeof(float), 6 + 0 * i),
        HADAL_KERNEL_PAIR("warp-not-synchronised", warpNotSynchronised, block, floats, (i ^ 31)),
        HADAL_KERNEL_PAIR("warp-for-block", warpForBlock, block, floats, (i ^ 32)),
        HADAL_KERNEL_PAIR("shuffle-as-fence", shuffleAsFence, block, floats, (i ^ 1)),
        HADAL_PAIR("sum-without-atomics",
                   {
                     auto* const sum = t.device(std::vector<int>{0});
                     launch<sumWithoutAtomics<isFaulty>, block>(t.context, {.x = 1}, sum);
                     t.expect(t.read(sum, 1), [](size_t) { return block; });
                   }),
        HADAL_PAIR("blocks-overlap",
                   {
                     auto* const y = t.device<float>(3 * block);
                     launch<blocksOverlap<isFaulty>, block>(t.context, {.x = 2}, y);
                     t.expect(t.read(y, 2 * block), one);
                   }),
        HADAL_PAIR("last-block-without-fence",
                   {
                     auto* const partial = t.device<float>(8);
                     auto* const ticket = t.device(std::vector<unsigned>{0});
                     auto* const y = t.device<float>(1);
                     launch<lastBlockWithoutFence<isFaulty>, block>(t.context, {.x = 8, .sharedBytes = sizeof(int)},
                                                                    partial, ticket, y);
                     t.expect(t.read(y, 1), [](size_t) { return 28; });
                   }),
        HADAL_PAIR("unsynchronised-read", unsynchronisedRead<isFaulty>(t);),
        HADAL_PAIR("missing-event", missingEvent<isFaulty>(t);),
        HADAL_PAIR("staging-used-again", stagingUsedAgain<isFaulty>(t);),
        HADAL_PAIR("host-pointer", hostPointer<isFaulty>(t);), HADAL_PAIR("freed-memory", freedMemory<isFaulty>(t);),
        HADAL_PAIR("copy-leaves-allocation", copyLeavesAllocation<isFaulty>(t);),
        HADAL_PAIR("wrong-kind", wrongKind<isFaulty>(t);), HADAL_PAIR("too-large-grid", tooLargeGrid<isFaulty>(t);),
        HADAL_PAIR("too-much-shared", tooMuchShared<isFaulty>(t);),
        HADAL_PAIR("wait-while-capturing", waitWhileCapturing<isFaulty>(t);),
        HADAL_PAIR("stream-not-joined", streamNotJoined<isFaulty>(t);),
        HADAL_PAIR("graph-without-edge", graphWithoutEdge<isFaulty>(t);),
  };
}

}  // namespace cuda
}  // namespace hadal
