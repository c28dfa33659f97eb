// What the host executor says each primitive does, against the plainest statement of it.
#include <algorithm>
#include <numeric>

#include "trial.h"

namespace hadal {
namespace cuda {
namespace primitives {

constexpr int block = 96;

// ---- Shuffles, votes, reductions

__device__ void shuffles(int width, int by, int64_t* index, float* up, double* down, uint32_t* exclusiveOr) {
  const int i = static_cast<int>(threadIdx.x);
  index[i] = __shfl_sync(wholeWarp, static_cast<int64_t>(i) << 33, by, width);
  up[i] = __shfl_up_sync(wholeWarp, static_cast<float>(i), static_cast<unsigned>(by), width);
  down[i] = __shfl_down_sync(wholeWarp, static_cast<double>(i), static_cast<unsigned>(by), width);
  exclusiveOr[i] = by < width ? __shfl_xor_sync(wholeWarp, static_cast<uint32_t>(i), by, width) : 0;
}

void shuffleWidths(Trial& t) {
  auto* const index = t.device<int64_t>(block);
  auto* const up = t.device<float>(block);
  auto* const down = t.device<double>(block);
  auto* const exclusiveOr = t.device<uint32_t>(block);
  for (int width = 1; width <= 32; width *= 2) {
    for (int by : {0, 1, 3, 8, 31}) {
      launch<shuffles, block>(t.context, {}, width, by, index, up, down, exclusiveOr);
      const auto first = [&](int i) { return i / width * width; };
      t.expect(t.read(index, block), [&](int i) { return static_cast<int64_t>(first(i) + by % width) << 33; });
      t.expect(t.read(up, block), [&](int i) { return i - by >= first(i) ? i - by : i; });
      t.expect(t.read(down, block), [&](int i) { return i + by < first(i) + width ? i + by : i; });
      t.expect(t.read(exclusiveOr, block), [&](int i) { return by < width ? i ^ by : 0; });
    }
  }
}

__device__ void votes(uint32_t* y) {
  const int i = static_cast<int>(threadIdx.x), lane = laneId();
  uint32_t* const to = y + 12 * i;
  to[0] = __ballot_sync(wholeWarp, lane % 3 == 0);
  to[1] = __any_sync(wholeWarp, lane == 5);
  to[2] = __all_sync(wholeWarp, lane < 31);
  to[3] = __reduce_add_sync(wholeWarp, static_cast<unsigned>(lane));
  to[4] = static_cast<uint32_t>(__reduce_min_sync(wholeWarp, lane - 7));
  to[5] = __reduce_max_sync(wholeWarp, static_cast<unsigned>(lane - 1));
  to[6] = __reduce_xor_sync(wholeWarp, static_cast<unsigned>(lane));
  to[7] = __match_any_sync(wholeWarp, lane / 4);
  // Half a warp votes for itself.
  to[8] = lane < 16 ? __ballot_sync(0xffffu, lane & 1) : __ballot_sync(0xffff0000u, lane & 1);
  to[9] = static_cast<uint32_t>(__syncthreads_count(i % 2));
  to[10] = static_cast<uint32_t>(__syncthreads_or(i == 95));
  to[11] = static_cast<uint32_t>(__syncthreads_and(i != 95));
}

void votesAndReductions(Trial& t) {
  auto* const y = t.device<uint32_t>(12 * block);
  launch<votes, block>(t.context, {}, y);
  t.expect(t.read(y, 12 * block), [](size_t at) -> uint32_t {
    const uint32_t lane = at / 12 % 32;
    const uint32_t expected[] = {0x49249249,
                                 1,
                                 0,
                                 496,
                                 static_cast<uint32_t>(-7),
                                 0xffffffff,
                                 0,
                                 0xfu << lane / 4 * 4,
                                 lane < 16 ? 0xaaaau : 0xaaaa0000u,
                                 48,
                                 1,
                                 0};
    return expected[at % 12];
  });
}

// ---- Atomics

__device__ void atomics(int* sums, unsigned* bounds, unsigned long long* wide) {
  const int i = static_cast<int>(blockIdx.x * block + threadIdx.x);
  atomicAdd(&sums[0], i);
  atomicSub(&sums[1], 2);
  atomicMax(&sums[2], (i * 37) % 1000 - 500);
  atomicMin(&sums[3], (i * 37) % 1000 - 500);
  atomicOr(&bounds[0], 1u << i % 32);
  atomicAnd(&bounds[1], ~(1u << i % 31));
  atomicXor(&bounds[2], static_cast<unsigned>(i));
  atomicAdd(&wide[0], static_cast<unsigned long long>(i) << 32);
  for (unsigned long long old = atomicCAS(&wide[1], 0ull, 0ull);;) {
    const unsigned long long seen = atomicCAS(&wide[1], old, old + 3);
    if (seen == old) break;
    old = seen;
  }
}

void atomicOperations(Trial& t) {
  constexpr int count = 40 * block;
  auto* const sums = t.device(std::vector<int>(4, 0));
  auto* const bounds = t.device(std::vector<unsigned>{0, 0xffffffff, 0});
  auto* const wide = t.device(std::vector<unsigned long long>(2, 0));
  launch<atomics, block>(t.context, {.x = 40}, sums, bounds, wide);
  t.expect(t.read(sums, 4), [&](size_t i) { return std::vector{count * (count - 1) / 2, -2 * count, 499, -500}[i]; });
  unsigned exclusiveOr = 0;
  for (unsigned i = 0; i < count; i++) exclusiveOr ^= i;
  t.expect(t.read(bounds, 3), [&](size_t i) { return std::vector<unsigned>{0xffffffff, 0x80000000, exclusiveOr}[i]; });
  t.expect(t.read(wide, 2), [&](size_t i) {
    return std::vector<unsigned long long>{(static_cast<unsigned long long>(count) * (count - 1) / 2) << 32,
                                           3 * count}[i];
  });
}

// ---- Numbers of 16 bits

template <class T>
__device__ void widen(const T* x, float* y) {
  const int i = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  y[i] = toFloat(x[i]);
}
template <class T>
__device__ void narrow(const float* x, uint16_t* y, int count) {
  const int i = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  if (i < count) y[i] = fromFloat<T>(x[i]).bits;
}

// All numbers widened, against their definition; and all numbers halfway between two neighbours, and next to that, narrowed.
template <class T>
void conversions(Trial& t, int exponentBits, int mantissaBits) {
  const int bias = (1 << (exponentBits - 1)) - 1, special = (1 << exponentBits) - 1;
  const auto exact = [&](uint32_t bits) -> double {
    const int exponent = static_cast<int>(bits >> mantissaBits) & special;
    const double mantissa = std::ldexp(bits & ((1u << mantissaBits) - 1), -mantissaBits);
    const double size = exponent == special ? (mantissa == 0 ? INFINITY : NAN)
                        : exponent == 0     ? std::ldexp(mantissa, 1 - bias)
                                            : std::ldexp(1 + mantissa, exponent - bias);
    return bits & 0x8000 ? -size : size;
  };
  std::vector<T> all(65536);
  for (uint32_t i = 0; i < 65536; i++) all[i].bits = static_cast<uint16_t>(i);
  auto* const y = t.device<float>(65536);
  launch<widen<T>, 256>(t.context, {.x = 256}, static_cast<const T*>(t.device(all)), y);
  t.expect(t.read(y, 65536), [&](size_t i) { return exact(static_cast<uint32_t>(i)); });

  std::vector<float> inputs;
  std::vector<uint32_t> expected;
  const uint32_t infinity = static_cast<uint32_t>(special) << mantissaBits;
  for (uint32_t sign : {0u, 0x8000u})
    for (uint32_t bits = 0; bits < infinity; bits++) {
      // Beyond the largest number lies what would be the next one, did the exponent go on.
      const double low = exact(bits);
      const double high = bits + 1 == infinity ? std::ldexp(1.0, special - bias) : exact(bits + 1);
      const auto middle = static_cast<float>((low + high) / 2);  // exact: fp32 has a bit more
      const float s = sign ? -1.0f : 1.0f;
      const auto add = [&](float x, uint32_t nearest) {
        inputs.push_back(s * x);
        expected.push_back(sign | nearest);
      };
      add(static_cast<float>(low), bits);
      add(middle, bits % 2 == 0 ? bits : bits + 1);
      add(std::nextafterf(middle, 0.0f), bits);
      add(std::nextafterf(middle, INFINITY), bits + 1);
    }
  for (float x : {NAN, -NAN}) {
    inputs.push_back(x);
    expected.push_back(0x7fff);
  }
  inputs.push_back(-INFINITY);
  expected.push_back(0x8000 | infinity);
  const int count = static_cast<int>(inputs.size());
  auto* const narrowed = t.device<uint16_t>(inputs.size());
  launch<narrow<T>, 256>(t.context, {.x = blocksFor(count, 256)}, static_cast<const float*>(t.device(inputs)), narrowed,
                         count);
  t.expect(t.read(narrowed, inputs.size()), [&](size_t i) { return expected[i]; });
}

// ---- Matrices

template <class T>
__device__ void product(const T* a, const T* b, const float* c, float* d, const T* bTransposed) {
  struct Shared {
    T a[16 * 16], b[16 * 8], bTransposed[8 * 16];
  };
  auto& s = shared<Shared>();
  for (int i = laneId(); i < 256; i += warpSize) s.a[i] = a[i];
  for (int i = laneId(); i < 128; i += warpSize) s.b[i] = b[i], s.bTransposed[i] = bTransposed[i];
  __syncwarp();
  const int lane = laneId(), g = lane / 4, t = lane % 4;
  uint32_t ra[4], rb[2], other[2], both[4];
  loadMatrices4(ra, &s.a[lane % 16 * 16 + lane / 16 * 8]);
  loadMatrices2Transposed(rb, &s.b[lane % 16 * 8]);
  loadMatrices2(other, &s.bTransposed[lane % 8 * 16 + lane / 8 % 2 * 8]);
  loadMatrices4Transposed(both, &s.b[lane % 16 * 8]);
  float sum[4];
  for (int i = 0; i < 4; i++) sum[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  multiplyAdd<T>(sum, ra, rb);
  // All three ways to load b must give the same registers.
  const bool isSame = rb[0] == other[0] && rb[1] == other[1] && rb[0] == both[0] && rb[1] == both[1];
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = isSame ? sum[i] : -1;
}

template <class T>
void products(Trial& t) {
  std::vector<T> a(256), b(128), bTransposed(128);
  std::vector<float> c(128);
  const auto valueA = [](int row, int k) { return static_cast<float>((row * 5 + k * 3) % 17 - 8); };
  const auto valueB = [](int k, int column) { return static_cast<float>((k * 7 + column * 11) % 13) / 4 - 1; };
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++) a[row * 16 + k] = fromFloat<T>(valueA(row, k));
  for (int k = 0; k < 16; k++)
    for (int column = 0; column < 8; column++)
      b[k * 8 + column] = bTransposed[column * 16 + k] = fromFloat<T>(valueB(k, column));
  for (int i = 0; i < 128; i++) c[i] = static_cast<float>(i) / 8;
  auto* const d = t.device<float>(128);
  launch<product<T>, 32>(t.context, {.sharedBytes = 1024}, static_cast<const T*>(t.device(a)),
                         static_cast<const T*>(t.device(b)), static_cast<const float*>(t.device(c)), d,
                         static_cast<const T*>(t.device(bTransposed)));
  t.expect(t.read(d, 128), [&](size_t i) {
    const int row = static_cast<int>(i) / 8, column = static_cast<int>(i) % 8;
    float sum = c[i];
    for (int k = 0; k < 16; k++) sum += valueA(row, k) * valueB(k, column);  // exact: small multiples of 1/8
    return sum;
  });
}

// ---- Asynchronous copies: group by group, each thread for itself

__device__ void copyGroups(const float* x, float* y) {
  auto& s = shared<float[3][4 * 32]>();
  const int i = laneId();
  for (int k = 0; k < 3; k++) {
    copyAsync16(&s[k][4 * i], x + k * 128 + 4 * i, k != 1 || i % 2 == 0);
    commitCopies();
  }
  float* const to = y + 7 * i;
  to[0] = s[0][4 * i];  // nothing has been waited for
  awaitCopies<2>();
  to[1] = s[0][4 * i];
  to[2] = s[1][4 * i];
  awaitCopies<1>();
  to[3] = s[1][4 * i];
  to[4] = s[2][4 * i];
  awaitCopies<0>();
  to[5] = s[2][4 * i];
  copyAsync4(&s[0][4 * i], x + 128 + 4 * i + 1, true);
  commitCopies();
  commitCopies();  // an empty group counts
  awaitCopies<1>();
  to[6] = s[0][4 * i];
}

void asynchronousCopies(Trial& t) {
  std::vector<float> x(384);
  std::iota(x.begin(), x.end(), 0.0f);
  auto* const y = t.device<float>(7 * 32);
  launch<copyGroups, 32>(t.context, {.sharedBytes = 3 * 512}, static_cast<const float*>(t.device(x)), y);
  t.expect(t.read(y, 7 * 32), [](size_t at) -> float {
    const float i = static_cast<float>(at / 7);
    const float second = at / 7 % 2 == 0 ? 128 + 4 * i : 0;
    return std::vector<float>{NAN, 4 * i, NAN, second, NAN, 256 + 4 * i, 128 + 4 * i + 1}[at % 7];
  });
}

// ---- The grid, the order of threads, what a launch is told

__device__ void places(uint32_t* y) {
  const uint32_t at = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  y[at * blockDim.x + threadIdx.x] = blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z + 1000 * threadIdx.x;
}

void gridPlaces(Trial& t) {
  auto* const y = t.device<uint32_t>(5 * 3 * 2 * 33);
  launch<places, 33>(t.context, {.x = 5, .y = 3, .z = 2}, y);
  t.expect(t.read(y, 990), [](size_t i) {
    const size_t b = i / 33;
    return b % 5 + 10 * (b / 5 % 3) + 100 * (b / 15) + 1000 * (i % 33);
  });
}

__device__ void arrivals(unsigned* next, unsigned* order) {
  order[atomicAdd(next, 1u)] = blockIdx.x * 64 + threadIdx.x;
}

// Only with one OS thread is the order of blocks one.
std::vector<unsigned> orderOf(Trial& t, const char* order) {
  if (!sim::setOrder(order)) t.fail("order refused");
  auto* const next = t.device(std::vector<unsigned>{0});
  auto* const y = t.device<unsigned>(4 * 64);
  launch<arrivals, 64>(t.context, {.x = 4}, next, y);
  return t.read(y, 256);
}

void threadOrders(Trial& t) {
  t.expect(orderOf(t, "forward"), [](size_t i) { return i; });
  t.expect(orderOf(t, "reverse"), [](size_t i) { return 255 - i; });
  std::vector<unsigned> random = orderOf(t, "random:5"), other = orderOf(t, "random:6");
  if (random == other) t.fail("two seeds give one order");
  if (std::is_sorted(random.begin(), random.end())) t.fail("a random order is sorted");
  std::sort(random.begin(), random.end());
  t.expect(random, [](size_t i) { return i; });
  if (sim::setOrder("backward")) t.fail("an unknown order was taken");
}

__device__ void addTo(float* x, float value) { x[threadIdx.x] += value; }
__device__ void scale(float* x, float factor) { x[threadIdx.x] *= factor; }

void gates(Trial& t) {
  auto* const x = t.device(std::vector<float>(64, 1.0f));
  auto* const yes = t.device(std::vector<int32_t>{1});
  auto* const no = t.device(std::vector<int32_t>{0});
  t.context.predicate = no;
  launch<addTo, 64>(t.context, {}, x, 1.0f);
  t.context.predicate = yes;
  launch<addTo, 64>(t.context, {}, x, 2.0f);
  t.expect(t.read(x, 64), [](size_t) { return 3; });
  // Another launch's fault stops what comes after it, its own does not.
  for (const bool isOwn : {false, true}) {
    const Fault fault{1 + t.context.nextLaunch() - (isOwn ? 0 : 1), 0, {}};
    t.must(cudaMemcpy(t.context.fault, &fault, sizeof(fault), cudaMemcpyHostToDevice));
    launch<addTo, 64>(t.context, {}, x, 4.0f);
    t.expect(t.read(x, 64), [&](size_t) { return isOwn ? 7 : 3; });
  }
}

// ---- Streams and graphs

void lazyStreams(Trial& t) {
  cudaStream_t other;
  cudaEvent_t event;
  t.must(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  t.must(cudaEventCreate(&event));
  auto* const x = t.device(std::vector<float>(64, 1.0f));
  auto* const host = t.pinned<float>(64);
  launch<addTo, 64>(t.context, {}, x, 1.0f);
  t.must(cudaEventRecord(event, t.stream));
  launch<addTo, 64>(t.context, {}, x, 10.0f);  // after the event
  t.must(cudaMemcpyAsync(host, x, 256, cudaMemcpyDeviceToHost, t.stream));
  if (!std::isnan(host[0])) t.fail("a copy was done before anything waited");
  t.must(cudaStreamWaitEvent(other, event));
  t.must(cudaStreamSynchronize(other));
  std::vector<float> now(x, x + 64);  // device memory is in reach here
  t.expect(now, [](size_t) { return 2; });
  if (!std::isnan(host[0])) t.fail("waiting for an event did more than what came before it");
  t.synchronize();
  t.expect(std::vector<float>(host, host + 64), [](size_t) { return 12; });
  // Pageable memory is read at the call.
  std::vector<float> source(64, 5.0f);
  t.must(cudaMemcpyAsync(x, source.data(), 256, cudaMemcpyHostToDevice, t.stream));
  std::fill(source.begin(), source.end(), 7.0f);
  t.expect(t.read(x, 64), [](size_t) { return 5; });
}

void graphs(Trial& t) {
  cudaStream_t other;
  cudaEvent_t begun, done;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  t.must(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  t.must(cudaEventCreateWithFlags(&begun, cudaEventDisableTiming));
  t.must(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
  auto* const x = t.device(std::vector<float>(64, 1.0f));
  auto* const y = t.device(std::vector<float>(64, 1.0f));
  t.must(cudaStreamBeginCapture(t.stream, cudaStreamCaptureModeThreadLocal));
  launch<addTo, 64>(t.context, {}, x, 1.0f);
  t.must(cudaEventRecord(begun, t.stream));
  t.must(cudaStreamWaitEvent(other, begun));
  launch<scale, 64>(t.context, {}, x, 2.0f);
  t.context.stream = other;
  launch<addTo, 64>(t.context, {}, y, 3.0f);
  t.must(cudaEventRecord(done, other));
  t.must(cudaStreamWaitEvent(t.stream, done));
  t.must(cudaStreamEndCapture(t.stream, &graph));
  t.must(cudaGraphInstantiate(&executable, graph));
  t.must(cudaGraphDestroy(graph));
  t.expect(t.read(x, 64), [](size_t) { return 1; });  // captured is not run
  t.must(cudaGraphLaunch(executable, t.stream));
  t.must(cudaGraphLaunch(executable, t.stream));
  t.expect(t.read(x, 64), [](size_t) { return 10; });
  t.expect(t.read(y, 64), [](size_t) { return 7; });
  t.must(cudaGraphExecDestroy(executable));
}

// ---- Numbers

__device__ void arithmetic(float* y, int32_t* z) {
  y[0] = __fdiv_rn(1.0f, 3.0f);
  y[1] = fmaf(1.0f + 0x1p-12f, 1.0f + 0x1p-12f, -1.0f);
  y[2] = exp2Approximate(-130.0f);
  y[3] = exp2Approximate(0.5f);
  y[4] = rsqrtf(4.0f);
  y[5] = min(NAN, 2.0f);
  y[6] = __int_as_float(__float_as_int(-0.0f));
  z[0] = __float2int_rn(2.5f);
  z[1] = __float2int_rz(-2.9f);
  z[2] = __float2int_rn(1e20f);
  z[3] = __float2int_rn(NAN);
  z[4] = __float2int_rd(-2.1f);
  z[5] = static_cast<int32_t>(__umulhi(0x80000000u, 6u));
  z[6] = __clz(1);
  z[7] = __ffs(8);
  z[8] = static_cast<int32_t>(__brev(1u));
  z[9] = __popc(0xf0f0u);
  z[10] = max(-3, 2);
  z[11] = static_cast<int32_t>(__byte_perm(0x33221100u, 0x77665544u, 0x7410u));
}

void arithmeticOperations(Trial& t) {
  auto* const y = t.device<float>(7);
  auto* const z = t.device<int32_t>(12);
  launch<arithmetic, 1>(t.context, {}, y, z);
  t.expect(t.read(y, 7), [](size_t i) {
    return std::vector<float>{1.0f / 3.0f, 0x1p-11f + 0x1p-24f, 0.0f, std::exp2(0.5f), 0.5f, 2.0f, -0.0f}[i];
  });
  t.expect(t.read(z, 12), [](size_t i) {
    return std::vector<int32_t>{2, -2, INT32_MAX, 0, -3, 3, 31, 4, INT32_MIN, 8, 2, 0x77441100}[i];
  });
}

}  // namespace primitives

std::vector<Case> primitiveCases() {
  using namespace primitives;
  return {{"shuffles with widths", shuffleWidths},
          {"votes and reductions", votesAndReductions},
          {"atomics", atomicOperations},
          {"conversions of bf16", [](Trial& t) { conversions<Bf16>(t, 8, 7); }},
          {"conversions of fp16", [](Trial& t) { conversions<F16>(t, 5, 10); }},
          {"products of bf16", products<Bf16>},
          {"products of fp16", products<F16>},
          {"asynchronous copies", asynchronousCopies},
          {"grid", gridPlaces},
          {"orders of threads", threadOrders},
          {"gates", gates},
          {"lazy streams", lazyStreams},
          {"graphs", graphs},
          {"arithmetic", arithmeticOperations}};
}

}  // namespace cuda
}  // namespace hadal
