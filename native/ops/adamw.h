// AdamW over several tensors. Kingma & Ba 2015, arXiv:1412.6980; decoupled decay of Loshchilov & Hutter 2019,
// arXiv:1711.05101, alg. 2. For each tensor, with rate = lr·lrRatio,
//   g = grad·gradScale;  m = β1·m + (1 − β1)·g;  v = β2·v + (1 − β2)·g²
//   param = param − rate·((m/correction1) / (√(v/correction2) + eps) + weightDecay·param + l4Decay·param³);  copy = param
// β = betaEnd + (beta − betaEnd)·betaShare, or beta where no betaShare is given. param in dtype, grad in gradDtype, m and v in
// momentDtype (rounded to nearest even, what this step uses not yet rounded), copy in copyDtype (16 bits); lr, gradScale,
// the bias corrections (1 − Π β) and betaShare fp32 [1]. A copy may be left out (null). nextParam, nextM and nextV may be
// param's, m's and v's memory. l4Decay's term is the gradient of ¼·l4Decay·Σ param⁴.
// Bytes for N numbers: reads 16·N and writes 12·N in fp32, 12·N and 8·N with moments in bf16; 2·N for a copy; in one pass.
#pragma once
#include "core/tensor-list.h"

namespace hadal {
namespace {

struct AdamwParams {
  int64_t tensors;
  double beta1, beta2, beta1End, beta2End, eps;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxListTensors];
  double lrRatio[maxListTensors], weightDecay[maxListTensors], l4Decay[maxListTensors];
  DType dtype[maxListTensors], gradDtype[maxListTensors], momentDtype[maxListTensors], copyDtype[maxListTensors];

  const char* check() const { return checkUpdate(*this); }
  BufferList buffers() const {
    BufferList list;
    list.in("lr", 4).in("gradScale", 4).in("correction1", 4).in("correction2", 4).optional("betaShare", 4);
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t param = count[i] * bytesOf(dtype[i]), moment = count[i] * bytesOf(momentDtype[i]);
      list.in("param", param).in("grad", count[i] * bytesOf(gradDtype[i])).in("m", moment).in("v", moment);
      list.out("nextParam", param).out("nextM", moment).out("nextV", moment);
      list.optional("copy", count[i] * bytesOf(copyDtype[i]), Access::out);
    }
    return list;
  }
};

HADAL_CONTRACT(adamw, "adamw", AdamwParams, tensors, beta1, beta2, beta1End, beta2End, eps, count, lrRatio, weightDecay,
               l4Decay, dtype, gradDtype, momentDtype, copyDtype);

}  // namespace
}  // namespace hadal
