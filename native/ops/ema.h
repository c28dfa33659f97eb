// Running means of several tensors: mean = mean + (1 − decay)·(x − mean). Polyak & Juditsky 1992, with exponential weights.
// x in dtype; mean and nextMean, which may be mean's memory, fp32; rest = 1 − decay fp32 [1]. Where rest is 1, mean is x.
// Bytes for N numbers in fp32: reads 8·N, writes 4·N, in one pass.
#pragma once
#include "core/tensor-list.h"

namespace hadal {
namespace {

struct EmaParams {
  int64_t tensors;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxListTensors];
  DType dtype[maxListTensors];

  const char* check() const {
    if (const char* wrong = checkTensorList(tensors, count)) return wrong;
    return checkListDTypes(tensors, dtype);
  }
  BufferList buffers() const {
    BufferList list;
    list.in("rest", 4);
    for (int64_t i = 0; i < tensors; i++)
      list.in("x", count[i] * bytesOf(dtype[i])).in("mean", count[i] * 4).out("nextMean", count[i] * 4);
    return list;
  }
};

HADAL_CONTRACT(ema, "ema", EmaParams, tensors, count, dtype);

}  // namespace
}  // namespace hadal
