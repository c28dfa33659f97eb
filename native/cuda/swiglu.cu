// Formulas, shapes, bytes: native/ops/swiglu.h. A thread takes a pack of 16 bytes of a row's gate and the same of its up: two or
// three loads of a thread are under way at once.
#include "ops/swiglu.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace swiglu_kernels {

// The thread's pack: its row, and where in it.
struct Place {
  int64_t row, i;
};
// False beyond the rows in use.
__device__ __forceinline__ bool findPlace(const SwigluParams& p, const int32_t* extent, Divider packsOfRow, int n,
                                          Place& place) {
  int64_t entries = p.entries, pack;
  if (extent) {
    const int64_t used = *extent;
    entries = used < 0 ? 0 : used < p.entries ? used : p.entries;
  }
  place.row = packsOfRow.divide(static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, pack);
  place.i = pack * n;
  return place.row < entries * p.inner;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T>
__device__ void forward(SwigluParams p, Divider packsOfRow, const T* gateUp, const int32_t* extent, T* y, bool isWide) {
  constexpr int n = packed<T>;
  Place place;
  if (!findPlace(p, extent, packsOfRow, n, place)) return;
  const T* const gate = gateUp + place.row * 2 * p.dim + place.i;
  const int64_t left = p.dim - place.i;
  float g[n], u[n];
  loadNumbers(g, gate, left, isWide);
  loadNumbers(u, gate + p.dim, left, isWide);
#pragma unroll
  for (int j = 0; j < n; j++) g[j] = g[j] * sigmoid(g[j]) * u[j];
  storeNumbers(y + place.row * p.dim + place.i, left, isWide, g);
}

// dgateUp may be gateUp's memory.
template <class T>
__device__ void backward(SwigluParams p, Divider packsOfRow, const T* dy, const T* gateUp, const int32_t* extent,
                         T* dgateUp, bool isWide) {
  constexpr int n = packed<T>;
  Place place;
  if (!findPlace(p, extent, packsOfRow, n, place)) return;
  const int64_t at = place.row * 2 * p.dim + place.i, left = p.dim - place.i;
  float d[n], g[n], u[n];
  loadNumbers(d, dy + place.row * p.dim + place.i, left, isWide);
  loadNumbers(g, gateUp + at, left, isWide);
  loadNumbers(u, gateUp + at + p.dim, left, isWide);
#pragma unroll
  for (int j = 0; j < n; j++) {
    const float s = sigmoid(g[j]);
    u[j] *= d[j] * s * (1.0f + g[j] * (1.0f - s));
    g[j] *= d[j] * s;
  }
  storeNumbers(dgateUp + at, left, isWide, u);
  storeNumbers(dgateUp + at + p.dim, left, isWide, g);
}

// Calls f(zero of the dtype, packs of a row, grid).
template <class F>
void dispatchPacks(const SwigluParams& p, F&& f) {
  dispatch(p.dtype, [&](auto t) {
    const int64_t packs = (p.dim + packed<decltype(t)> - 1) / packed<decltype(t)>;
    f(t, Divider(packs), Grid{.x = blocksFor(p.entries * p.inner * packs, threads)});
  });
}

void run(const SwigluParams& p, void* const* b, RunContext& context) {
  dispatchPacks(p, [&](auto t, Divider packs, Grid grid) {
    using T = decltype(t);
    launch<forward<T>, threads>(context, grid, p, packs, static_cast<const T*>(b[0]), static_cast<const int32_t*>(b[1]),
                                static_cast<T*>(b[2]), areWide<T>(p.dim, b[0], b[2]));
  });
}
void runBackward(const SwigluBackwardParams& p, void* const* b, RunContext& context) {
  dispatchPacks(p, [&](auto t, Divider packs, Grid grid) {
    using T = decltype(t);
    launch<backward<T>, threads>(context, grid, static_cast<const SwigluParams&>(p), packs, static_cast<const T*>(b[0]),
                                 static_cast<const T*>(b[1]), static_cast<const int32_t*>(b[2]), static_cast<T*>(b[3]),
                                 areWide<T>(p.dim, b[0], b[1], b[3]));
  });
}

}  // namespace swiglu_kernels

HADAL_KERNEL(swiglu, SwigluParams, swiglu_kernels::run)
HADAL_KERNEL(swigluBackward, SwigluBackwardParams, swiglu_kernels::runBackward)

}  // namespace cuda
}  // namespace hadal
