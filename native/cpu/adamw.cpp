#include "ops/adamw.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

HADAL_INLINE Vec squareRoot(Vec x) {
  Vec y;
  for (int i = 0; i < lanes; i++) y[i] = std::sqrt(x[i]);  // becomes one instruction
  return y;
}

struct Factors {
  float lr, gradScale, scale1, scale2, beta1, rest1, beta2, rest2, eps;
};

// The dtypes are told apart at each vector: the branches always go the same way and memory is the limit, while 27 copies of
// the loop would only be code.
template <class Part>
HADAL_INLINE Vec loadAny(DType dtype, const void* p, int64_t i, Part part) {
  Vec x = {};
  dispatch(dtype, [&](auto t) { x = load(static_cast<const decltype(t)*>(p) + i, part); });
  return x;
}
template <class Part>
HADAL_INLINE void storeAny(DType dtype, void* p, int64_t i, Part part, Vec x) {
  dispatch(dtype, [&](auto t) { store(static_cast<decltype(t)*>(p) + i, part, x); });
}

// Numbers begin … end of one tensor.
HADAL_INLINE void updateRange(DType dtype, DType gradDtype, DType momentDtype, const Factors& f, float keep,
                              void* const* buffers, int64_t begin, int64_t end) {
  const void *param = buffers[0], *grad = buffers[1], *m = buffers[2], *v = buffers[3];
  void *nextParam = buffers[4], *nextM = buffers[5], *nextV = buffers[6];
  Bf16* copy = static_cast<Bf16*>(buffers[7]);
  forLanes(end - begin, [&](int64_t offset, auto part) {
    const int64_t i = begin + offset;
    const Vec g = loadAny(gradDtype, grad, i, part) * f.gradScale;
    const Vec m1 = loadAny(momentDtype, m, i, part) * f.beta1 + g * f.rest1;
    const Vec v1 = loadAny(momentDtype, v, i, part) * f.beta2 + g * g * f.rest2;
    const Vec step = m1 * f.scale1 / (squareRoot(v1 * f.scale2) + f.eps);
    const Vec next = loadAny(dtype, param, i, part) * keep - step * f.lr;
    storeAny(dtype, nextParam, i, part, next);
    storeAny(momentDtype, nextM, i, part, m1);
    storeAny(momentDtype, nextV, i, part, v1);
    if (copy) store(copy + i, part, next);
  });
}

// Threads share the tensors by this many numbers: enough for what starts a range not to count, and whole cache lines.
constexpr int64_t unit = 4096;
HADAL_INLINE int64_t unitsOf(int64_t count) { return (count + unit - 1) / unit; }

void update(const AdamwParams& p, void* const* buffers, RunContext& context) {
  const auto number = [&](int index) { return *static_cast<const float*>(buffers[index]); };
  const float lr = number(0);
  const Factors factors{lr,
                        number(1),
                        1 / number(2),
                        1 / number(3),
                        static_cast<float>(p.beta1),
                        static_cast<float>(1 - p.beta1),
                        static_cast<float>(p.beta2),
                        static_cast<float>(1 - p.beta2),
                        static_cast<float>(p.eps)};
  int64_t units = 0;
  for (int64_t i = 0; i < p.tensors; i++) units += unitsOf(p.count[i]);
  parallelFor(units, context.threads, 2, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;  // unit of a tensor's first number
    for (int64_t i = 0; i < p.tensors; i++) {
      const int64_t from = (begin > first ? begin - first : 0) * unit, wanted = (end - first) * unit;
      const int64_t to = wanted < p.count[i] ? wanted : p.count[i];
      const float keep = static_cast<float>(1 - lr * p.weightDecay[i]);
      if (from < to) {
        updateRange(p.dtype[i], p.gradDtype[i], p.momentDtype[i], factors, keep, buffers + 4 + 8 * i, from, to);
      }
      first += unitsOf(p.count[i]);
    }
  });
}

}  // namespace

HADAL_KERNEL(adamw, AdamwParams, update)

}  // namespace HADAL_ISA
}  // namespace hadal
