// Lion over several tensors. Chen et al. 2023, arXiv:2302.06675, alg. 2. With rate = lr·lrRatio and g = grad·gradScale
//   lion:       step = sign(β1·m + (1 − β1)·g);  m = β2·m + (1 − β2)·g
//   lion-root:  m = β1·m + (1 − β1)·g;  s = β2·s + (1 − β2)·g²;  step = sign(m) / (√s + eps)
//   param = param − rate·(step + weightDecay·param);  copy = param
// sign(0) = 0. β = betaEnd + (beta − betaEnd)·betaShare, or beta where no betaShare is given. param in dtype, grad in
// gradDtype, m and s in momentDtype (rounded to nearest even, what this step uses not yet rounded), copy in copyDtype
// (16 bits); lr, gradScale and betaShare fp32 [1]. A copy may be left out (null). Next values may be in the place of the old.
// Bytes for N numbers in fp32: reads 12·N and writes 8·N, lion-root 16·N and 12·N; 2·N for a copy; in one pass.
#pragma once
#include "core/tensor-list.h"

namespace hadal {
namespace {

template <bool hasRoot>
struct LionParamsOf {
  int64_t tensors;
  double beta1, beta2, beta1End, beta2End, eps;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxListTensors];
  double lrRatio[maxListTensors], weightDecay[maxListTensors];
  DType dtype[maxListTensors], gradDtype[maxListTensors], momentDtype[maxListTensors], copyDtype[maxListTensors];

  const char* check() const { return checkUpdate(*this); }
  BufferList buffers() const {
    BufferList list;
    list.in("lr", 4).in("gradScale", 4).optional("betaShare", 4);
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t param = count[i] * bytesOf(dtype[i]), moment = count[i] * bytesOf(momentDtype[i]);
      list.in("param", param).in("grad", count[i] * bytesOf(gradDtype[i])).in("m", moment);
      if (hasRoot) list.in("s", moment);
      list.out("nextParam", param).out("nextM", moment);
      if (hasRoot) list.out("nextS", moment);
      list.optional("copy", count[i] * bytesOf(copyDtype[i]), Access::out);
    }
    return list;
  }
};
using LionParams = LionParamsOf<false>;
using LionRootParams = LionParamsOf<true>;

HADAL_CONTRACT(lion, "lion", LionParams, tensors, beta1, beta2, beta1End, beta2End, eps, count, lrRatio, weightDecay,
               dtype, gradDtype, momentDtype, copyDtype);
HADAL_CONTRACT(lionRoot, "lion-root", LionRootParams, tensors, beta1, beta2, beta1End, beta2End, eps, count, lrRatio,
               weightDecay, dtype, gradDtype, momentDtype, copyDtype);

}  // namespace
}  // namespace hadal
