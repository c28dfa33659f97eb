// Squared Euclidean norm of several tensors together.
//   y = Σ over tensors of Σ x²
// x of any shape in dtype; y fp32 [1]. Blocks are summed in fp32 and joined in double, in an order that depends on nothing but
// the shapes. Infinite where a square or the sum is, NaN where a number is.
// Bytes: reads every tensor once.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct SquaredNormParams {
  // As many as the parameters of a model of about twelve layers; more take several calls.
  static constexpr int maxTensors = 128;
  // Numbers a partial sum covers.
  static constexpr int64_t block = 1024;

  int64_t tensors;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxTensors];
  DType dtype[maxTensors];

  const char* check() const {
    if (tensors < 1 || tensors > maxTensors) return "expected 1..128 tensors";
    for (int64_t i = 0; i < tensors; i++) {
      if (count[i] < 0 || count[i] > INT64_MAX / 1024) return "expected count in 0..2^53";
      if (!isFloat(dtype[i])) return "expected float dtypes";
    }
    return nullptr;
  }
  BufferList buffers() const {
    BufferList list;
    for (int64_t i = 0; i < tensors; i++) list.in("x", count[i] * bytesOf(dtype[i]));
    return list.out("y", 4);
  }
};

HADAL_CONTRACT(squaredNorm, "squared-norm", SquaredNormParams, tensors, count, dtype);

}  // namespace
}  // namespace hadal
