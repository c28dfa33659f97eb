// SwiGLU. Shazeer 2020, arXiv:2002.05202, eq. 6 (without its products).
//   y = silu(gate) · up,  [gate | up] = gateUp,  silu(g) = g · σ(g)
//   dgate = dy · up · σ · (1 + g·(1 − σ)),  dup = dy · silu(g)
// R rows = entries × inner, I features. gateUp_R(2I), dgateUp_R(2I), y_RI, dy_RI in dtype. extent int32 [1], optional:
// how many entries are in use; rows beyond are neither read nor written.
// Bytes: forward reads 2·R·I, writes R·I. Backward reads 3·R·I, writes 2·R·I.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct SwigluParams {
  int64_t entries, inner, dim;
  DType dtype;

  const char* check() const {
    int64_t rows, size;
    if (entries < 0 || inner < 0 || dim < 1) return "expected entries >= 0, inner >= 0 and dim >= 1";
    if (__builtin_mul_overflow(entries, inner, &rows) || __builtin_mul_overflow(dim, int64_t{8}, &size) ||
        __builtin_mul_overflow(rows, size, &size))
      return "expected entries * inner * dim to fit in 64 bits";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  int64_t half() const { return entries * inner * dim * bytesOf(dtype); }
  BufferList buffers() const { return BufferList().in("gateUp", 2 * half()).optional("extent", 4).out("y", half()); }
};

struct SwigluBackwardParams : SwigluParams {
  BufferList buffers() const {
    return BufferList().in("dy", half()).in("gateUp", 2 * half()).optional("extent", 4).out("dgateUp", 2 * half());
  }
};

HADAL_CONTRACT(swiglu, "swiglu", SwigluParams, entries, inner, dim, dtype);
HADAL_CONTRACT(swigluBackward, "swiglu-backward", SwigluBackwardParams, entries, inner, dim, dtype);

}  // namespace
}  // namespace hadal
