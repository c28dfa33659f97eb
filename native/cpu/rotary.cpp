#include "ops/rotary.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// One head. x and y may be the same memory: a pair is read before it is written. Plain loops: the compiler turns them into
// vectors, and memory is what they wait for.
template <class T, bool interleaved>
HADAL_INLINE void rotateHead(const RotaryParams& p, const T* x, const float* cos, const float* sin, float sign, T* y) {
  const int64_t pairs = p.rotaryDims / 2, step = interleaved ? 2 : 1, other = interleaved ? 1 : pairs;
  if (x != y) {
    const int64_t end = p.offset + p.rotaryDims;
    std::memcpy(y, x, static_cast<size_t>(p.offset) * sizeof(T));
    std::memcpy(y + end, x + end, static_cast<size_t>(p.dim - end) * sizeof(T));
  }
  x += p.offset;
  y += p.offset;
#pragma GCC ivdep
  for (int64_t j = 0; j < pairs; j++) {
    const float a = toFloat(x[j * step]), b = toFloat(x[j * step + other]), s = sign * sin[j];
    y[j * step] = fromFloat<T>(a * cos[j] - b * s);
    y[j * step + other] = fromFloat<T>(a * s + b * cos[j]);
  }
}

void run(const RotaryParams& p, void* const* buffers, RunContext& context) {
  const float* cos = static_cast<const float*>(buffers[1]);
  const float* sin = static_cast<const float*>(buffers[2]);
  const int32_t* positions = static_cast<const int32_t*>(buffers[3]);
  const int64_t pairs = p.rotaryDims / 2, tokenSize = p.heads * p.dim;
  const float sign = p.inverse ? -1 : 1;
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = static_cast<const T*>(buffers[0]);
    T* y = static_cast<T*>(buffers[4]);
    parallelFor(p.tokens, context.threads, 1 + 16384 / (tokenSize + 1), [&](int64_t begin, int64_t end, int) {
      for (int64_t token = begin; token < end; token++) {
        const int64_t position = positions[token];
        if (position < 0 || position >= p.positions)
          return context.fail("[rotary] expected positions of 0 to %lld, got %lld",
                              static_cast<long long>(p.positions - 1), static_cast<long long>(position));
        const float* c = cos + position * pairs;
        const float* s = sin + position * pairs;
        for (int64_t at = token * tokenSize; at < (token + 1) * tokenSize; at += p.dim) {
          if (p.interleaved)
            rotateHead<T, true>(p, x + at, c, s, sign, y + at);
          else
            rotateHead<T, false>(p, x + at, c, s, sign, y + at);
        }
      }
    });
  });
}

}  // namespace

HADAL_KERNEL(rotary, RotaryParams, run)

}  // namespace HADAL_ISA
}  // namespace hadal
