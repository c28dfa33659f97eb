// Guards for numbers that come from outside: a buffer's size is a product of them.
#pragma once
#include <cstdint>

#include "core/kernel.h"

namespace hadal {

// No negative factor, and a product that leaves room for bytes an element and a few terms more. A zero counts as 1, so that
// products of some of the factors fit, too: empty tensors have strides and workspaces.
template <class... Factors>
HADAL_INLINE bool sizeFits(Factors... factors) {
  int64_t size = 1;
  const bool fits =
      ((factors >= 0 && !__builtin_mul_overflow(size, static_cast<int64_t>(factors ? factors : 1), &size)) && ...);
  return fits && size <= int64_t{1} << 56;
}

}  // namespace hadal
