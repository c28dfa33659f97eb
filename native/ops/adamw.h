// AdamW over several tensors. Kingma & Ba 2015, arXiv:1412.6980; decoupled decay of Loshchilov & Hutter 2019,
// arXiv:1711.05101, alg. 2. For each tensor
//   g = grad·gradScale;  m = β1·m + (1 − β1)·g;  v = β2·v + (1 − β2)·g²
//   param = param − lr·((m/correction1) / (√(v/correction2) + eps) + weightDecay·param);  copy = param in bf16
// param in dtype, grad in gradDtype, m and v in momentDtype; lr, gradScale and the bias corrections (1 − β1^step,
// 1 − β2^step) fp32 [1]. A copy may be left out (null). nextParam, nextM and nextV may be param's, m's and v's memory.
// Bytes for N numbers in fp32: reads 16·N, writes 12·N and 2·N for a copy, in one pass.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct AdamwParams {
  // Eight buffers each; enough that what a call costs does not count beside its bytes.
  static constexpr int maxTensors = 16;

  int64_t tensors;
  double beta1, beta2, eps;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxTensors];
  double weightDecay[maxTensors];
  DType dtype[maxTensors], gradDtype[maxTensors], momentDtype[maxTensors];

  const char* check() const {
    if (tensors < 1 || tensors > maxTensors) return "expected 1..16 tensors";
    for (int64_t i = 0; i < tensors; i++) {
      if (count[i] < 0 || count[i] > INT64_MAX / 1024) return "expected count in 0..2^53";
      if (!isFloat(dtype[i]) || !isFloat(gradDtype[i]) || !isFloat(momentDtype[i])) return "expected float dtypes";
    }
    return nullptr;
  }
  BufferList buffers() const {
    BufferList list;
    list.in("lr", 4).in("gradScale", 4).in("correction1", 4).in("correction2", 4);
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t param = count[i] * bytesOf(dtype[i]), moment = count[i] * bytesOf(momentDtype[i]);
      list.in("param", param).in("grad", count[i] * bytesOf(gradDtype[i])).in("m", moment).in("v", moment);
      list.out("nextParam", param).out("nextM", moment).out("nextV", moment);
      list.optional("copy", count[i] * 2, Access::out);
    }
    return list;
  }
};

HADAL_CONTRACT(adamw, "adamw", AdamwParams, tensors, beta1, beta2, eps, count, weightDecay, dtype, gradDtype,
               momentDtype);

}  // namespace
}  // namespace hadal
