// Stochastic gradient descent over several tensors, as torch.optim.SGD with dampening 0: the decay is part of the gradient, and
// so of the momentum. Sutskever et al. 2013 (ICML), in PyTorch's form. With rate = lr·lrRatio,
//   g = grad·gradScale + weightDecay·param
//   sgd:           step = g
//   sgd-momentum:  m = momentum·m + g;  step = g + momentum·m with nesterov, else m
//   param = param − rate·step;  copy = param
// param in dtype, grad in gradDtype, m in momentDtype (rounded to nearest even, what this step uses not yet rounded), copy in
// copyDtype (16 bits); lr and gradScale fp32 [1]. A copy may be left out (null). Next values may be in the place of the old.
// Bytes for N numbers in fp32: reads 8·N and writes 4·N, with momentum 12·N and 8·N; 2·N for a copy; in one pass.
#pragma once
#include "core/tensor-list.h"

namespace hadal {
namespace {

template <bool hasMomentum>
struct SgdParamsOf {
  int64_t tensors, nesterov;
  double momentum;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxListTensors];
  double lrRatio[maxListTensors], weightDecay[maxListTensors];
  DType dtype[maxListTensors], gradDtype[maxListTensors], momentDtype[maxListTensors], copyDtype[maxListTensors];

  const char* check() const { return checkUpdate(*this); }
  BufferList buffers() const {
    BufferList list;
    list.in("lr", 4).in("gradScale", 4);
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t param = count[i] * bytesOf(dtype[i]), moment = count[i] * bytesOf(momentDtype[i]);
      list.in("param", param).in("grad", count[i] * bytesOf(gradDtype[i]));
      if (hasMomentum) list.in("m", moment);
      list.out("nextParam", param);
      if (hasMomentum) list.out("nextM", moment);
      list.optional("copy", count[i] * bytesOf(copyDtype[i]), Access::out);
    }
    return list;
  }
};
using SgdParams = SgdParamsOf<false>;
using SgdMomentumParams = SgdParamsOf<true>;

HADAL_CONTRACT(sgd, "sgd", SgdParams, tensors, nesterov, momentum, count, lrRatio, weightDecay, dtype, gradDtype,
               momentDtype, copyDtype);
HADAL_CONTRACT(sgdMomentum, "sgd-momentum", SgdMomentumParams, tensors, nesterov, momentum, count, lrRatio, weightDecay,
               dtype, gradDtype, momentDtype, copyDtype);

}  // namespace
}  // namespace hadal
