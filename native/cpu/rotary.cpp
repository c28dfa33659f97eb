#include "ops/rotary.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// ---- Pairs (2j, 2j + 1) of a row as vectors of their first and second numbers, and back

template <class T, class Part>
HADAL_INLINE void loadPairs(const T* p, Part part, Vec& a, Vec& b) {
  Vec low, high;
  if constexpr (std::is_same_v<Part, WholeVec>) {
    low = load(p), high = load(p + lanes);
  } else {
    const int64_t n = 2 * part.count;
    low = loadPart(p, n < lanes ? n : lanes), high = loadPart(p + lanes, n < lanes ? 0 : n - lanes);
  }
  a = deinterleave<0>(low, high), b = deinterleave<1>(low, high);
}
template <class T, class Part>
HADAL_INLINE void storePairs(T* p, Part part, Vec a, Vec b) {
  const Vec low = interleave<0>(a, b), high = interleave<1>(a, b);
  if constexpr (std::is_same_v<Part, WholeVec>) {
    store(p, low), store(p + lanes, high);
  } else {
    const int64_t n = 2 * part.count;
    storePart(p, n < lanes ? n : lanes, low), storePart(p + lanes, n < lanes ? 0 : n - lanes, high);
  }
}
// Two bf16 numbers are the halves of 32 bits.
template <class Part>
HADAL_INLINE void loadPairs(const Bf16* p, Part part, Vec& a, Vec& b) {
  const UVec pairs = reinterpret_cast<UVec>(load(reinterpret_cast<const float*>(p), part));
  a = reinterpret_cast<Vec>(pairs << 16), b = reinterpret_cast<Vec>(pairs & 0xffff0000u);
}
template <class Part>
HADAL_INLINE void storePairs(Bf16* p, Part part, Vec a, Vec b) {
  store(reinterpret_cast<float*>(p), part, reinterpret_cast<Vec>(toPairs(a, b)));
}

// One head. x and y may be the same memory: a pair is read before it is written.
template <class T, bool interleaved>
HADAL_INLINE void rotateHead(const RotaryParams& p, const T* x, const float* cos, const float* sin, float sign, T* y) {
  const int64_t pairs = p.rotaryDims / 2, end = p.offset + p.rotaryDims;
  if (x != y) {
    copyShort(y, x, p.offset * static_cast<int64_t>(sizeof(T)));
    copyShort(y + end, x + end, (p.dim - end) * static_cast<int64_t>(sizeof(T)));
  }
  x += p.offset;
  y += p.offset;
  forLanes(pairs, [&](int64_t j, auto part) {
    const Vec c = load(cos + j, part), s = sign * load(sin + j, part);
    Vec a, b;
    if constexpr (interleaved) {
      loadPairs(x + 2 * j, part, a, b);
    } else {
      a = load(x + j, part), b = load(x + pairs + j, part);
    }
    const Vec first = a * c - b * s, second = a * s + b * c;
    if constexpr (interleaved) {
      storePairs(y + 2 * j, part, first, second);
    } else {
      store(y + j, part, first), store(y + pairs + j, part, second);
    }
  });
}

// Heads are put together in a buffer that stays in L1 before they are streamed.
constexpr int64_t bufferBytes = 4096;

template <class T, bool interleaved, bool streams>
void rotateTokens(const RotaryParams& p, void* const* buffers, RunContext& context, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(buffers[0]);
  T* y = static_cast<T*>(buffers[4]);
  const int64_t pairs = p.rotaryDims / 2, tokenSize = p.heads * p.dim;
  const int64_t together = streams ? bufferBytes / static_cast<int64_t>(sizeof(T)) / p.dim * p.dim : tokenSize;
  alignas(64) T buffer[streams ? bufferBytes / sizeof(T) : 1];
  for (int64_t token = begin; token < end; token++) {
    const int64_t position = static_cast<const int32_t*>(buffers[3])[token];
    if (position < 0 || position >= p.positions)
      return context.fail("[rotary] expected positions of 0 to %lld, got %lld", static_cast<long long>(p.positions - 1),
                          static_cast<long long>(position));
    const float* cos = static_cast<const float*>(buffers[1]) + position * pairs;
    const float* sin = static_cast<const float*>(buffers[2]) + position * pairs;
    const int64_t last = (token + 1) * tokenSize;
    for (int64_t at = token * tokenSize; at < last; at += together) {
      const int64_t n = last - at < together ? last - at : together;
      T* to = streams ? buffer : y + at;
      for (int64_t i = 0; i < n; i += p.dim)
        rotateHead<T, interleaved>(p, x + at + i, cos, sin, p.inverse ? -1 : 1, to + i);
      if constexpr (streams) streamBytes(y + at, buffer, n * static_cast<int64_t>(sizeof(T)));
    }
  }
  if constexpr (streams) endStream();
}

void run(const RotaryParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    const bool fits = p.dim * static_cast<int64_t>(sizeof(T)) <= bufferBytes && buffers[0] != buffers[4];
    streaming(2 * p.tensor(), fits, [&](auto streams) {
      parallelFor(p.tokens, context.threads, 1 + 16384 / (p.heads * p.dim + 1), [&](int64_t begin, int64_t end, int) {
        if (p.interleaved)
          rotateTokens<T, true, streams.value>(p, buffers, context, begin, end);
        else
          rotateTokens<T, false, streams.value>(p, buffers, context, begin, end);
      });
    });
  });
}

}  // namespace

HADAL_KERNEL(rotary, RotaryParams, run)

}  // namespace HADAL_ISA
}  // namespace hadal
