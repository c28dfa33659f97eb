// AdamW. Kingma & Ba 2015, arXiv:1412.6980; decoupled decay of Loshchilov & Hutter 2019, arXiv:1711.05101, alg. 2.
//   g = grad·gradScale;  m = β1·m + (1 − β1)·g;  v = β2·v + (1 − β2)·g²
//   param = param − lr·((m/correction1) / (√(v/correction2) + eps) + weightDecay·param)
// N numbers; param in dtype, grad in gradDtype, m and v in momentDtype; lr, gradScale and the bias corrections
// (1 − β1^step, 1 − β2^step) fp32 [1]. Every output may be its input's memory.
// Bytes: reads 4·N, writes 3·N, in one pass.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct AdamwParams {
  int64_t count;
  double beta1, beta2, eps, weightDecay;
  DType dtype, gradDtype, momentDtype;

  const char* check() const {
    if (count < 0 || count > INT64_MAX / 8) return "expected count >= 0";
    if (!isFloat(dtype) || !isFloat(gradDtype) || !isFloat(momentDtype)) return "expected float dtypes";
    return nullptr;
  }
  BufferList buffers() const {
    const int64_t param = count * bytesOf(dtype), moment = count * bytesOf(momentDtype);
    return BufferList()
        .in("param", param)
        .in("grad", count * bytesOf(gradDtype))
        .in("m", moment)
        .in("v", moment)
        .in("lr", 4)
        .in("gradScale", 4)
        .in("correction1", 4)
        .in("correction2", 4)
        .out("nextParam", param)
        .out("nextM", moment)
        .out("nextV", moment);
  }
};

HADAL_CONTRACT(adamw, "adamw", AdamwParams, count, beta1, beta2, eps, weightDecay, dtype, gradDtype, momentDtype);

}  // namespace
}  // namespace hadal
