#include "ops/latent-heads.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// The rotation of one token's heads as y[i] = x[i] · same[i] + x[partner of i] · other[i], spread out so that a vector needs
// no more than its partners. Workspace of a thread: same, other and a row of R numbers.
struct Rotation {
  float* same;   // [R]
  float* other;  // [R]
  float* row;    // [R]
};

int64_t workspace(const LatentHeadsParams& p, int threads) { return 3 * p.rotaryDims * threads * 4; }

template <int... i>
HADAL_INLINE Vec swapPairs(Vec x, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(x, x, (i ^ 1)...);
}
HADAL_INLINE Vec swapPairs(Vec x) { return swapPairs(x, std::make_integer_sequence<int, lanes>{}); }

template <bool interleaved>
HADAL_INLINE void spread(const Rotation& to, const float* cos, const float* sin, float sign, int64_t pairs) {
  for (int64_t j = 0; j < pairs; j++) {
    const int64_t a = interleaved ? 2 * j : j, b = interleaved ? 2 * j + 1 : j + pairs;
    to.same[a] = to.same[b] = cos[j];
    to.other[a] = -sign * sin[j];
    to.other[b] = sign * sin[j];
  }
}

// R numbers; x and y may be the same memory: a pair is read before it is written.
template <bool interleaved, class From, class To>
HADAL_INLINE void rotate(const Rotation& by, const From* x, To* y, int64_t count) {
  if constexpr (interleaved) {
    forLanes(count, [&](int64_t i, auto part) {
      const Vec v = load(x + i, part);
      store(y + i, part, v * load(by.same + i, part) + swapPairs(v) * load(by.other + i, part));
    });
  } else {
    const int64_t pairs = count / 2;
    forLanes(pairs, [&](int64_t i, auto part) {
      const Vec a = load(x + i, part), b = load(x + pairs + i, part);
      store(y + i, part, a * load(by.same + i, part) + b * load(by.other + i, part));
      store(y + pairs + i, part, b * load(by.same + pairs + i, part) + a * load(by.other + pairs + i, part));
    });
  }
}

// Pieces of heads are 16 to 192 numbers: too short for a call of memcpy each.
template <class T>
HADAL_INLINE void copy(const T* from, T* to, int64_t count) {
  const uint16_t* x = reinterpret_cast<const uint16_t*>(from);
  uint16_t* y = reinterpret_cast<uint16_t*>(to);
  const int64_t halves = count * static_cast<int64_t>(sizeof(T) / 2);
  int64_t i = 0;
  for (; i + lanes <= halves; i += lanes) *reinterpret_cast<HVec*>(y + i) = *reinterpret_cast<const HVec*>(x + i);
  if (i < halves) std::memcpy(y + i, x + i, static_cast<size_t>(halves - i) * 2);
}

// Calls body(token, rotation) for each token, with the rotation of its position; sign −1 turns back.
template <bool interleaved, class Body>
HADAL_INLINE void forTokens(const LatentHeadsParams& p, const float* cos, const float* sin, const int32_t* positions,
                            float sign, RunContext& context, Body&& body) {
  const int64_t pairs = p.rotaryDims / 2, perToken = p.heads * (p.dim + p.valueDim);
  // Below 16384 numbers, starting a thread costs more than moving them.
  parallelFor(p.tokens, context.threads, 1 + 16384 / (perToken + 1), [&](int64_t begin, int64_t end, int thread) {
    float* numbers = static_cast<float*>(context.workspace) + thread * 3 * p.rotaryDims;
    const Rotation rotation{numbers, numbers + p.rotaryDims, numbers + 2 * p.rotaryDims};
    for (int64_t token = begin; token < end; token++) {
      const int64_t position = positions[token];
      if (position < 0 || position >= p.positions)
        return context.fail("[latent-heads] expected positions of 0 to %lld, got %lld",
                            static_cast<long long>(p.positions - 1), static_cast<long long>(position));
      spread<interleaved>(rotation, cos + position * pairs, sin + position * pairs, sign, pairs);
      body(token, rotation);
    }
  });
}

template <class T, bool interleaved>
void forward(const LatentHeadsParams& p, void* const* buffers, RunContext& context) {
  const int64_t plain = p.plainDims(), wide = p.keyValueDims(), rope = p.rotaryDims;
  const auto body = [&](int64_t token, const Rotation& rotation) {
    const T* q = static_cast<const T*>(buffers[0]) + token * p.heads * p.dim;
    const T* keyValue = static_cast<const T*>(buffers[1]) + token * p.heads * wide;
    T* rotated = static_cast<T*>(buffers[6]) + token * p.heads * p.dim;
    T* k = static_cast<T*>(buffers[7]) + token * p.heads * p.dim;
    T* v = static_cast<T*>(buffers[8]) + token * p.heads * p.valueDim;
    T* shared = reinterpret_cast<T*>(rotation.row);
    rotate<interleaved>(rotation, static_cast<const T*>(buffers[2]) + token * rope, shared, rope);
    for (int64_t head = 0; head < p.heads; head++) {
      if (q != rotated) copy(q, rotated, plain);
      rotate<interleaved>(rotation, q + plain, rotated + plain, rope);
      copy(keyValue, k, plain);
      copy(shared, k + plain, rope);
      copy(keyValue + plain, v, p.valueDim);
      q += p.dim;
      rotated += p.dim;
      k += p.dim;
      keyValue += wide;
      v += p.valueDim;
    }
  };
  forTokens<interleaved>(p, static_cast<const float*>(buffers[3]), static_cast<const float*>(buffers[4]),
                         static_cast<const int32_t*>(buffers[5]), 1, context, body);
}

template <class T, bool interleaved>
void backward(const LatentHeadsParams& p, void* const* buffers, RunContext& context) {
  const int64_t plain = p.plainDims(), wide = p.keyValueDims(), rope = p.rotaryDims;
  const auto body = [&](int64_t token, const Rotation& rotation) {
    const T* drotated = static_cast<const T*>(buffers[0]) + token * p.heads * p.dim;
    const T* dk = static_cast<const T*>(buffers[1]) + token * p.heads * p.dim;
    const T* dv = static_cast<const T*>(buffers[2]) + token * p.heads * p.valueDim;
    T* dq = static_cast<T*>(buffers[6]) + token * p.heads * p.dim;
    T* dkeyValue = static_cast<T*>(buffers[7]) + token * p.heads * wide;
    float* total = rotation.row;
    std::memset(total, 0, static_cast<size_t>(rope) * 4);
    for (int64_t head = 0; head < p.heads; head++) {
      if (drotated != dq) copy(drotated, dq, plain);
      rotate<interleaved>(rotation, drotated + plain, dq + plain, rope);
      copy(dk, dkeyValue, plain);
      copy(dv, dkeyValue + plain, p.valueDim);
      forLanes(rope, [&](int64_t i, auto part) {
        store(total + i, part, load(total + i, part) + load(dk + plain + i, part));
      });
      drotated += p.dim;
      dq += p.dim;
      dk += p.dim;
      dv += p.valueDim;
      dkeyValue += wide;
    }
    rotate<interleaved>(rotation, total, static_cast<T*>(buffers[8]) + token * rope, rope);
  };
  forTokens<interleaved>(p, static_cast<const float*>(buffers[3]), static_cast<const float*>(buffers[4]),
                         static_cast<const int32_t*>(buffers[5]), -1, context, body);
}

void run(const LatentHeadsParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    p.interleaved ? forward<T, true>(p, buffers, context) : forward<T, false>(p, buffers, context);
  });
}

void runBackward(const LatentHeadsBackwardParams& p, void* const* buffers, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    p.interleaved ? backward<T, true>(p, buffers, context) : backward<T, false>(p, buffers, context);
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(latentHeads, LatentHeadsParams, run, workspace)
HADAL_KERNEL_WITH_WORKSPACE(latentHeadsBackward, LatentHeadsBackwardParams, runBackward, workspace)

}  // namespace HADAL_ISA
}  // namespace hadal
