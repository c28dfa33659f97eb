// What kernels over lists of tensors share: vectors of any dtype, and threads that share the numbers of all tensors.
#pragma once
#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

// The dtypes are told apart at each vector: the branches always go the same way and memory is the limit, while a copy of the
// loop for each combination would only be code.
template <class Part>
HADAL_INLINE Vec loadAny(DType dtype, const void* p, int64_t i, Part part) {
  Vec x = {};
  dispatch(dtype, [&](auto t) {
    const auto* at = static_cast<const decltype(t)*>(p) + i;
    prefetch(at);
    x = load(at, part);
  });
  return x;
}
template <class Part>
HADAL_INLINE void storeAny(DType dtype, void* p, int64_t i, Part part, Vec x) {
  dispatch(dtype, [&](auto t) { store(static_cast<decltype(t)*>(p) + i, part, x); });
}

HADAL_INLINE Vec squareRoot(Vec x) {
  Vec y;
  for (int i = 0; i < lanes; i++) y[i] = std::sqrt(x[i]);  // becomes one instruction
  return y;
}
HADAL_INLINE Vec signOf(Vec x) { return select(x > 0.0f, splat(1), select(x < 0.0f, splat(-1), Vec{})); }

// Threads share the tensors by this many numbers: enough for what starts a range not to count, and whole cache lines.
inline constexpr int64_t listUnit = 4096;
HADAL_INLINE int64_t listUnits(int64_t count) { return (count + listUnit - 1) / listUnit; }

// Calls body(tensor, begin, end) on ranges of numbers that cover all tensors.
template <class Body>
HADAL_INLINE void forTensorList(int64_t tensors, const int64_t* count, int threads, Body&& body) {
  int64_t units = 0;
  for (int64_t i = 0; i < tensors; i++) units += listUnits(count[i]);
  parallelFor(units, threads, 2, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;  // unit of a tensor's first number
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t from = (begin > first ? begin - first : 0) * listUnit, wanted = (end - first) * listUnit;
      const int64_t to = wanted < count[i] ? wanted : count[i];
      if (from < to) body(i, from, to);
      first += listUnits(count[i]);
    }
  });
}

// A β on its way from `first` to `last`, of which `share` is left: an fp32 number, or null for all of it.
HADAL_INLINE double scheduled(double first, double last, const void* share) {
  return share ? last + (first - last) * static_cast<double>(*static_cast<const float*>(share)) : first;
}

}  // namespace HADAL_ISA
}  // namespace hadal
