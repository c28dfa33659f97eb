// Walking a row by vectors: the body is written once and compiled twice, for whole vectors and for the row's last, partly
// filled one. forLanes(n, [&](int64_t i, auto part) { store(y + i, part, load(x + i, part) * 2.0f); })
#pragma once
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

struct WholeVec {};
struct PartVec {
  int64_t count;  // 1 … lanes - 1
};

template <class T>
HADAL_INLINE Vec load(const T* p, WholeVec, float = 0) {
  return load(p);
}
template <class T>
HADAL_INLINE Vec load(const T* p, PartVec part, float fill = 0) {  // what lies beyond the row reads as `fill`
  return loadPart(p, part.count, fill);
}
template <class T>
HADAL_INLINE void store(T* p, WholeVec, Vec x) {
  store(p, x);
}
template <class T>
HADAL_INLINE void store(T* p, PartVec part, Vec x) {
  storePart(p, part.count, x);
}

template <class Body>
HADAL_INLINE void forLanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, WholeVec{});
  if (i < n) body(i, PartVec{n - i});
}

}  // namespace HADAL_ISA
}  // namespace hadal
