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

// The three dtypes are told apart at each vector: the branches always go the same way and memory is the limit, while
// 27 copies of the loop would only be code.
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

const char* from(const void* p, DType dtype, int64_t index) {
  return static_cast<const char*>(p) + index * bytesOf(dtype);
}
char* to(void* p, DType dtype, int64_t index) { return static_cast<char*>(p) + index * bytesOf(dtype); }

void update(const AdamwParams& p, void* const* buffers, RunContext& context) {
  const auto number = [&](int index) { return *static_cast<const float*>(buffers[index]); };
  const float lr = number(4), gradScale = number(5), scale1 = 1 / number(6), scale2 = 1 / number(7);
  const float beta1 = static_cast<float>(p.beta1), rest1 = static_cast<float>(1 - p.beta1);
  const float beta2 = static_cast<float>(p.beta2), rest2 = static_cast<float>(1 - p.beta2);
  const float eps = static_cast<float>(p.eps), keep = static_cast<float>(1 - lr * p.weightDecay);
  parallelFor(p.count, context.threads, 8192, [&](int64_t begin, int64_t end, int) {
    const char* param = from(buffers[0], p.dtype, begin);
    const char* grad = from(buffers[1], p.gradDtype, begin);
    const char* m = from(buffers[2], p.momentDtype, begin);
    const char* v = from(buffers[3], p.momentDtype, begin);
    char* nextParam = to(buffers[8], p.dtype, begin);
    char* nextM = to(buffers[9], p.momentDtype, begin);
    char* nextV = to(buffers[10], p.momentDtype, begin);
    forLanes(end - begin, [&](int64_t i, auto part) {
      const Vec g = loadAny(p.gradDtype, grad, i, part) * gradScale;
      const Vec m1 = loadAny(p.momentDtype, m, i, part) * beta1 + g * rest1;
      const Vec v1 = loadAny(p.momentDtype, v, i, part) * beta2 + g * g * rest2;
      const Vec step = m1 * scale1 / (squareRoot(v1 * scale2) + eps);
      storeAny(p.dtype, nextParam, i, part, loadAny(p.dtype, param, i, part) * keep - step * lr);
      storeAny(p.momentDtype, nextM, i, part, m1);
      storeAny(p.momentDtype, nextV, i, part, v1);
    });
  });
}

}  // namespace

HADAL_KERNEL(adamw, AdamwParams, update)

}  // namespace HADAL_ISA
}  // namespace hadal
