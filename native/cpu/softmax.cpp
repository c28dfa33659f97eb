#include "ops/softmax.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

template <class T>
void forwardRow(const T* x, T* y, int64_t dim) {
  Vec most = splat(-INFINITY);
  forLanes(dim, [&](int64_t i, auto part) { most = max(most, load(x + i, part, -INFINITY)); });
  const float top = maximum(most);
  if (top == -INFINITY) {
    // NaNs compare as smaller, too: they must not become zeros.
    for (int64_t i = 0; i < dim; i++) y[i] = fromFloat<T>(std::isnan(toFloat(x[i])) ? NAN : 0.0f);
    return;
  }
  // exp is computed twice rather than kept in y: y may be bf16, and rounding before dividing would show.
  Vec total = {};
  forLanes(dim, [&](int64_t i, auto part) { total += exp(load(x + i, part, -INFINITY) - top); });
  const float scale = 1.0f / sum(total);
  forLanes(dim, [&](int64_t i, auto part) { store(y + i, part, exp(load(x + i, part) - top) * scale); });
}

void forward(const SoftmaxParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(p.rows, context.threads, 1 + 4096 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++)
        forwardRow(static_cast<const T*>(buffers[0]) + row * p.dim, static_cast<T*>(buffers[1]) + row * p.dim, p.dim);
    });
  });
}

void backward(const SoftmaxBackwardParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    parallelFor(p.rows, context.threads, 1 + 16384 / p.dim, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++) {
        const T* dy = static_cast<const T*>(buffers[0]) + row * p.dim;
        const T* y = static_cast<const T*>(buffers[1]) + row * p.dim;
        T* dx = static_cast<T*>(buffers[2]) + row * p.dim;
        Vec dots = {};
        forLanes(p.dim, [&](int64_t i, auto part) { dots += load(y + i, part) * load(dy + i, part); });
        const float dot = sum(dots);
        forLanes(p.dim,
                 [&](int64_t i, auto part) { store(dx + i, part, load(y + i, part) * (load(dy + i, part) - dot)); });
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(softmax, SoftmaxParams, forward)
HADAL_KERNEL(softmaxBackward, SoftmaxBackwardParams, backward)

}  // namespace HADAL_ISA
}  // namespace hadal
