// What kernels over lists of tensors share: a list as a kernel gets it by value, blocks that find their tensor, and numbers
// of any dtype.
#pragma once
#include "core/tensor-list.h"
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {

// Numbers that a thread takes at once: 16 bytes of fp32, in which most bytes of an optimizer are. What a warp reads or writes
// at once is then whole lines, of 16-bit numbers too.
inline constexpr int listWidth = 4;
// Numbers of a block: four turns of its threads, beside which it does not count that each works out rates in double.
inline constexpr int64_t listChunk = 4 * threads * listWidth;

// Tensors of `each` buffers; null where one is left out.
template <int each>
struct TensorList {
  void* at[maxListTensors][each];
  int64_t count[maxListTensors];
  unsigned first[maxListTensors];  // chunk of a tensor's first number; the grid has a block for each chunk
  bool isWide[maxListTensors];     // all addresses allow to access listWidth numbers at once
  int tensors;
  unsigned chunks;
};

// `buffers` gives what the kernel may use of tensor t: void* const* of `each`.
template <int each, class Buffers>
TensorList<each> listOf(int64_t tensors, const int64_t* count, Buffers&& buffers) {
  TensorList<each> list{};
  list.tensors = static_cast<int>(tensors);
  for (int t = 0; t < list.tensors; t++) {
    list.isWide[t] = true;
    for (int b = 0; b < each; b++) {
      list.at[t][b] = buffers(t, b);
      list.isWide[t] = list.isWide[t] && isAligned(list.at[t][b], 16);
    }
    list.count[t] = count[t];
    list.first[t] = list.chunks;
    list.chunks += blocksFor(count[t], listChunk);
  }
  return list;
}
// Tensors whose buffers follow each other.
template <int each>
TensorList<each> listOf(int64_t tensors, const int64_t* count, void* const* buffers) {
  return listOf<each>(tensors, count, [&](int t, int b) { return buffers[t * each + b]; });
}

template <int numbers>
struct Width {
  static constexpr int value = numbers;
};

// The tensor whose numbers the block has. Its addresses are taken out of the list once: looked up at each use, they would keep
// the compiler from joining stores.
template <int each>
struct ListTensor {
  int index = 0;
  void* at[each];
};
template <int each>
__device__ __forceinline__ ListTensor<each> tensorOfBlock(const TensorList<each>& list) {
  ListTensor<each> tensor;
  while (tensor.index + 1 < list.tensors && blockIdx.x >= list.first[tensor.index + 1]) tensor.index++;
  for (int b = 0; b < each; b++) tensor.at[b] = list.at[tensor.index][b];
  return tensor;
}
// Calls body(i, Width<w>) for the numbers of the block's chunk, of which a thread takes i … i + w.
template <int each, class Body>
__device__ __forceinline__ void forChunk(const TensorList<each>& list, int t, Body&& body) {
  const int64_t begin = (blockIdx.x - list.first[t]) * listChunk, end = min(begin + listChunk, list.count[t]);
  const int64_t wide = list.isWide[t] ? begin + (end - begin) / listWidth * listWidth : begin;
  for (int64_t i = begin + threadIdx.x * listWidth; i < wide; i += threads * listWidth) body(i, Width<listWidth>{});
  for (int64_t i = wide + threadIdx.x; i < end; i += threads) body(i, Width<1>{});
}

// Numbers as they lie in memory: loads do not wait for each other when they are made fp32 after all of them have begun. Two
// of 16 bits share a word.
template <int width>
struct Raw {
  uint32_t words[width];
};

// The branches on a dtype go the same way in the whole block, and memory is the limit; a kernel for each combination would
// only be code.
template <int width>
__device__ __forceinline__ Raw<width> loadRaw(DType dtype, const void* p, int64_t i) {
  Raw<width> raw{};
  if (dtype == DType::fp32) {
    const auto pack = *reinterpret_cast<const Pack<uint32_t, width>*>(static_cast<const uint32_t*>(p) + i);
    for (int k = 0; k < width; k++) raw.words[k] = pack.at[k];
  } else if constexpr (width == 1) {
    raw.words[0] = static_cast<const uint16_t*>(p)[i];
  } else {
    const auto* at = reinterpret_cast<const Pack<uint32_t, width / 2>*>(static_cast<const uint16_t*>(p) + i);
    const auto pack = *at;
    for (int k = 0; k < width / 2; k++) raw.words[k] = pack.at[k];
  }
  return raw;
}

template <int width>
struct Floats {
  float at[width];
};
template <int width>
__device__ __forceinline__ Floats<width> floatsOf(DType dtype, const Raw<width>& raw) {
  Floats<width> x;
  const auto half = [&](int k) { return static_cast<uint16_t>(raw.words[k / 2] >> (k % 2 * 16)); };
  if (dtype == DType::fp32) {
    for (int k = 0; k < width; k++) x.at[k] = __uint_as_float(raw.words[k]);
  } else if (dtype == DType::bf16) {
    for (int k = 0; k < width; k++) x.at[k] = toFloat(Bf16{half(k)});
  } else {
    for (int k = 0; k < width; k++) x.at[k] = toFloat(F16{half(k)});
  }
  return x;
}

template <class T, int width>
__device__ __forceinline__ void storeHalves(void* p, int64_t i, const Floats<width>& x) {
  T* const at = static_cast<T*>(p) + i;
  if constexpr (width == 1) {
    *at = fromFloat<T>(x.at[0]);
  } else {
    Pack<uint32_t, width / 2> pack;
    for (int k = 0; k < width / 2; k++) pack.at[k] = packPair<T>(x.at[2 * k], x.at[2 * k + 1]);
    *reinterpret_cast<Pack<uint32_t, width / 2>*>(at) = pack;
  }
}
template <int width>
__device__ __forceinline__ void storeFloats(DType dtype, void* p, int64_t i, const Floats<width>& x) {
  if (dtype == DType::fp32) {
    Pack<uint32_t, width> pack;
    for (int k = 0; k < width; k++) pack.at[k] = __float_as_uint(x.at[k]);
    *reinterpret_cast<Pack<uint32_t, width>*>(static_cast<float*>(p) + i) = pack;
  } else if (dtype == DType::bf16) {
    storeHalves<Bf16>(p, i, x);
  } else {
    storeHalves<F16>(p, i, x);
  }
}

// A β on its way from `first` to `last`, of which `share` is left: an fp32 number, or null for all of it.
__device__ __forceinline__ double scheduled(double first, double last, const float* share) {
  return share ? last + (first - last) * static_cast<double>(*share) : first;
}

}  // namespace cuda
}  // namespace hadal
