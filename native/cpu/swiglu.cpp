#include "ops/swiglu.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Calls row(i, streams) for each row in use, on all threads. A row reads and writes p.dim numbers `tensors` times.
template <class T, class Row>
HADAL_INLINE void forRows(const SwigluParams& p, const void* extent, int64_t tensors, const void* out, const void* in,
                          RunContext& context, Row&& row) {
  int64_t entries = p.entries;
  if (extent) {
    const int64_t used = *static_cast<const int32_t*>(extent);
    entries = used < 0 ? 0 : used < p.entries ? used : p.entries;
  }
  const int64_t rows = entries * p.inner;
  const int64_t bytes = p.dim * static_cast<int64_t>(sizeof(T));
  streaming(rows * bytes * tensors, canStream(out, bytes, in), [&](auto streams) {
    parallelFor(rows, context.threads, 1 + 4096 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) row(i, streams);
      if (streams.value) endStream();
    });
  });
}

HADAL_INLINE Vec gated(Vec gate, Vec up) { return gate * sigmoid(gate) * up; }

void forward(const SwigluParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    forRows<T>(p, buffers[1], 3, buffers[2], buffers[0], context, [&](int64_t row, auto streams) {
      const int64_t dim = p.dim;
      const T* gate = static_cast<const T*>(buffers[0]) + row * 2 * dim;
      const T* up = gate + dim;
      T* y = static_cast<T*>(buffers[2]) + row * dim;
      int64_t i = 0;
      for (; i + 2 * lanes <= dim; i += 2 * lanes) {
        prefetch(gate + i), prefetch(up + i);
        Vec g[2], u[2];
        loadTwo(gate + i, g[0], g[1]), loadTwo(up + i, u[0], u[1]);
        putTwo<streams.value>(y + i, gated(g[0], u[0]), gated(g[1], u[1]));
      }
      forLanes(dim - i, [&](int64_t j, auto part) {
        store(y + i + j, part, gated(load(gate + i + j, part), load(up + i + j, part)));
      });
    });
  });
}

HADAL_INLINE void gradients(Vec dy, Vec gate, Vec up, Vec& dgate, Vec& dup) {
  const Vec s = sigmoid(gate);
  dgate = dy * up * s * (1.0f + gate * (1.0f - s));
  dup = dy * gate * s;
}

void backward(const SwigluBackwardParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    forRows<T>(p, buffers[2], 5, buffers[3], buffers[1], context, [&](int64_t row, auto streams) {
      const int64_t dim = p.dim;
      const T* dy = static_cast<const T*>(buffers[0]) + row * dim;
      const T* gate = static_cast<const T*>(buffers[1]) + row * 2 * dim;
      const T* up = gate + dim;
      T* dgate = static_cast<T*>(buffers[3]) + row * 2 * dim;
      T* dup = dgate + dim;
      int64_t i = 0;
      for (; i + 2 * lanes <= dim; i += 2 * lanes) {
        prefetch(dy + i), prefetch(gate + i), prefetch(up + i);
        Vec d[2], g[2], u[2], dg[2], du[2];
        loadTwo(dy + i, d[0], d[1]), loadTwo(gate + i, g[0], g[1]), loadTwo(up + i, u[0], u[1]);
        for (int half = 0; half < 2; half++) gradients(d[half], g[half], u[half], dg[half], du[half]);
        putTwo<streams.value>(dgate + i, dg[0], dg[1]), putTwo<streams.value>(dup + i, du[0], du[1]);
      }
      forLanes(dim - i, [&](int64_t j, auto part) {
        Vec dg, du;
        gradients(load(dy + i + j, part), load(gate + i + j, part), load(up + i + j, part), dg, du);
        store(dgate + i + j, part, dg), store(dup + i + j, part, du);
      });
    });
  });
}

}  // namespace

HADAL_KERNEL(swiglu, SwigluParams, forward)
HADAL_KERNEL(swigluBackward, SwigluBackwardParams, backward)

}  // namespace HADAL_ISA
}  // namespace hadal
