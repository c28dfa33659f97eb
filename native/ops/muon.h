// What Muon does beside its products, over several tensors of one matrix shape. Jordan et al. 2024 (Muon: an optimizer for
// hidden layers in neural networks), in the form of torch.optim.Muon. With g = grad·gradScale
//   muon-momentum:  m = momentum·m + (1 − momentum)·g;  direction = nesterov ? momentum·m + (1 − momentum)·g : m
//   muon-update:    param = param − rate·(scale·step + weightDecay·param), rate = lr·lrRatio;  copy = param
// direction and step hold all tensors one after the other, in stackDtype: what is made orthogonal in between is a batch of
// products. param in dtype, grad in gradDtype, m in momentDtype (rounded to nearest even), copy in copyDtype (16 bits); lr
// and gradScale fp32 [1]. A copy may be left out (null). Next values may be in the place of the old.
// Bytes for N numbers in fp32, the stacks in bf16: muon-momentum reads 8·N and writes 6·N, muon-update reads 6·N and writes
// 4·N, 2·N for a copy.
#pragma once
#include "core/tensor-list.h"

namespace hadal {
namespace {

HADAL_INLINE int64_t totalCount(int64_t tensors, const int64_t* count) {
  int64_t total = 0;
  for (int64_t i = 0; i < tensors; i++) total += count[i];
  return total;
}

struct MuonMomentumParams {
  int64_t tensors, nesterov;
  double momentum;
  DType stackDtype;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxListTensors];
  DType gradDtype[maxListTensors], momentDtype[maxListTensors];

  const char* check() const {
    if (const char* wrong = checkTensorList(tensors, count)) return wrong;
    if (const char* wrong = checkListDTypes(1, &stackDtype)) return wrong;
    for (const DType* dtypes : {gradDtype, momentDtype})
      if (const char* wrong = checkListDTypes(tensors, dtypes)) return wrong;
    return nullptr;
  }
  BufferList buffers() const {
    BufferList list;
    list.in("gradScale", 4);
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t moment = count[i] * bytesOf(momentDtype[i]);
      list.in("grad", count[i] * bytesOf(gradDtype[i])).in("m", moment).out("nextM", moment);
    }
    return list.out("direction", totalCount(tensors, count) * bytesOf(stackDtype));
  }
};

HADAL_CONTRACT(muonMomentum, "muon-momentum", MuonMomentumParams, tensors, nesterov, momentum, stackDtype, count,
               gradDtype, momentDtype);

struct MuonUpdateParams {
  int64_t tensors;
  double scale;
  DType stackDtype;
  // Of each tensor; those beyond `tensors` do not count.
  int64_t count[maxListTensors];
  double lrRatio[maxListTensors], weightDecay[maxListTensors];
  DType dtype[maxListTensors], copyDtype[maxListTensors];

  const char* check() const {
    if (const char* wrong = checkTensorList(tensors, count)) return wrong;
    if (const char* wrong = checkListDTypes(1, &stackDtype)) return wrong;
    for (const DType* dtypes : {dtype, copyDtype})
      if (const char* wrong = checkListDTypes(tensors, dtypes)) return wrong;
    return nullptr;
  }
  BufferList buffers() const {
    BufferList list;
    list.in("lr", 4).in("step", totalCount(tensors, count) * bytesOf(stackDtype));
    for (int64_t i = 0; i < tensors; i++) {
      const int64_t param = count[i] * bytesOf(dtype[i]);
      list.in("param", param).out("nextParam", param);
      list.optional("copy", count[i] * bytesOf(copyDtype[i]), Access::out);
    }
    return list;
  }
};

HADAL_CONTRACT(muonUpdate, "muon-update", MuonUpdateParams, tensors, scale, stackDtype, count, lrRatio, weightDecay,
               dtype, copyDtype);

}  // namespace
}  // namespace hadal
