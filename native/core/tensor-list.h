// Kernels over lists of tensors: how many one call takes, and what all of their contracts check.
#pragma once
#include "core/kernel.h"

namespace hadal {

// At eight buffers a tensor as many as a call may have; enough that what a call
// costs does not count beside its bytes.
inline constexpr int maxListTensors = 16;

HADAL_INLINE const char* checkTensorList(int64_t tensors, const int64_t* count) {
  if (tensors < 1 || tensors > maxListTensors) return "expected 1..16 tensors";
  for (int64_t i = 0; i < tensors; i++)
    if (count[i] < 0 || count[i] > INT64_MAX / 1024) return "expected count in 0..2^53";
  return nullptr;
}
HADAL_INLINE const char* checkListDTypes(int64_t tensors, const DType* dtype) {
  for (int64_t i = 0; i < tensors; i++)
    if (!isFloat(dtype[i])) return "expected float dtypes";
  return nullptr;
}
// Of an optimizer's kernel.
template <class Params>
HADAL_INLINE const char* checkUpdate(const Params& p) {
  if (const char* wrong = checkTensorList(p.tensors, p.count)) return wrong;
  const DType* const lists[] = {p.dtype, p.gradDtype, p.momentDtype, p.copyDtype};
  for (const DType* dtypes : lists)
    if (const char* wrong = checkListDTypes(p.tensors, dtypes)) return wrong;
  return nullptr;
}

}  // namespace hadal
