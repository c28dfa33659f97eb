#include "ops/swiglu.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

int64_t rowsInUse(const SwigluParams& p, const void* extent) {
  if (!extent) return p.entries * p.inner;
  const int64_t used = *static_cast<const int32_t*>(extent);
  return (used < 0 ? 0 : used < p.entries ? used : p.entries) * p.inner;
}

void forward(const SwigluParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(rowsInUse(p, buffers[1]), context.threads, 1 + 4096 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++) {
        const T* gate = static_cast<const T*>(buffers[0]) + row * 2 * p.dim;
        T* y = static_cast<T*>(buffers[2]) + row * p.dim;
        forLanes(p.dim, [&](int64_t i, auto part) {
          const Vec g = load(gate + i, part);
          store(y + i, part, g * sigmoid(g) * load(gate + p.dim + i, part));
        });
      }
    });
  });
}

void backward(const SwigluBackwardParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(rowsInUse(p, buffers[2]), context.threads, 1 + 4096 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++) {
        const T* dy = static_cast<const T*>(buffers[0]) + row * p.dim;
        const T* gate = static_cast<const T*>(buffers[1]) + row * 2 * p.dim;
        T* dgate = static_cast<T*>(buffers[3]) + row * 2 * p.dim;
        forLanes(p.dim, [&](int64_t i, auto part) {
          const Vec g = load(gate + i, part), up = load(gate + p.dim + i, part), d = load(dy + i, part);
          const Vec s = sigmoid(g);
          store(dgate + i, part, d * up * s * (1.0f + g * (1.0f - s)));
          store(dgate + p.dim + i, part, d * g * s);
        });
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(swiglu, SwigluParams, forward)
HADAL_KERNEL(swigluBackward, SwigluBackwardParams, backward)

}  // namespace HADAL_ISA
}  // namespace hadal
