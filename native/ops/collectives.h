// Collectives over lists of tensors, on an axis of the device mesh. N ranks; `size` says how many the program is for: 1 needs
// no group, and what comes back is what went in.
//   all-reduce:      y = x₀ ∘ x₁ ∘ … over the ranks, the same bits on all; fp32
//   reduce-scatter:  y = this rank's share of that; x is `count` numbers, a share is ⌈count / N⌉, the last ones end with zeros
//   all-gather:      y = the shares of all ranks in a row, without the zeros at the end
//   all-to-all:      y[r] = part [this rank] of rank r's x
//   broadcast-from:  y = x of rank `root`
// Sums travel in `wire`, to which every addend and every sum is rounded. op: 0 sum, 1 least, 2 greatest (fp32 on the wire).
// All tensors of a call travel as one message. Bytes: reads and writes each tensor once, and twice what is packed (a message
// of several tensors, or in another format).
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

// At two buffers a tensor nearly as many as a call may have.
inline constexpr int maxCollective = 64;

HADAL_INLINE int64_t shareOf(int64_t count, int64_t size) { return (count + size - 1) / size; }

HADAL_INLINE const char* checkCollective(int64_t tensors, int64_t axis, int64_t size, const int64_t* count) {
  if (tensors < 1 || tensors > maxCollective) return "expected 1..64 tensors";
  if (axis < 0 || axis >= meshAxes) return "expected an axis in 0..3";
  if (size < 1 || size > 1 << 20) return "expected a size in 1..2^20";
  for (int64_t i = 0; i < tensors; i++)
    if (count[i] < 0 || !sizeFits(count[i], size, 64)) return "expected counts whose messages fit";
  return nullptr;
}

HADAL_INLINE const char* checkReduction(int64_t op, DType wire) {
  if (op < 0 || op > 2) return "expected an op in 0..2";
  if (!isFloat(wire)) return "expected a float wire";
  if (op != 0 && wire != DType::fp32) return "expected fp32 on the wire of what is no sum";
  return nullptr;
}

struct AllReduceParams {
  int64_t tensors, axis, size, op;
  DType wire;
  int64_t count[maxCollective];

  const char* check() const {
    if (const char* wrong = checkCollective(tensors, axis, size, count)) return wrong;
    return checkReduction(op, wire);
  }
  BufferList buffers() const {
    BufferList list;
    for (int64_t i = 0; i < tensors; i++) list.in("x", count[i] * 4);
    for (int64_t i = 0; i < tensors; i++) list.out("y", count[i] * 4);
    return list;
  }
};
HADAL_CONTRACT(allReduce, "all-reduce", AllReduceParams, tensors, axis, size, op, wire, count);

struct ReduceScatterParams {
  int64_t tensors, axis, size, op;
  DType wire;
  int64_t count[maxCollective];  // of x

  const char* check() const {
    if (const char* wrong = checkCollective(tensors, axis, size, count)) return wrong;
    return checkReduction(op, wire);
  }
  BufferList buffers() const {
    BufferList list;
    for (int64_t i = 0; i < tensors; i++) list.in("x", count[i] * 4);
    for (int64_t i = 0; i < tensors; i++) list.out("y", shareOf(count[i], size) * 4);
    return list;
  }
};
HADAL_CONTRACT(reduceScatter, "reduce-scatter", ReduceScatterParams, tensors, axis, size, op, wire, count);

struct AllGatherParams {
  int64_t tensors, axis, size;
  int64_t count[maxCollective];  // of y
  DType dtype[maxCollective];

  const char* check() const { return checkCollective(tensors, axis, size, count); }
  BufferList buffers() const {
    BufferList list;
    for (int64_t i = 0; i < tensors; i++) list.in("x", shareOf(count[i], size) * bytesOf(dtype[i]));
    for (int64_t i = 0; i < tensors; i++) list.out("y", count[i] * bytesOf(dtype[i]));
    return list;
  }
};
HADAL_CONTRACT(allGather, "all-gather", AllGatherParams, tensors, axis, size, count, dtype);

struct AllToAllParams {
  int64_t tensors, axis, size;
  int64_t count[maxCollective];  // of a part
  DType dtype[maxCollective];

  const char* check() const { return checkCollective(tensors, axis, size, count); }
  BufferList buffers() const {
    BufferList list;
    for (int64_t i = 0; i < tensors; i++) list.in("x", count[i] * size * bytesOf(dtype[i]));
    for (int64_t i = 0; i < tensors; i++) list.out("y", count[i] * size * bytesOf(dtype[i]));
    return list;
  }
};
HADAL_CONTRACT(allToAll, "all-to-all", AllToAllParams, tensors, axis, size, count, dtype);

struct BroadcastParams {
  int64_t tensors, axis, size, root;
  int64_t count[maxCollective];
  DType dtype[maxCollective];

  const char* check() const {
    if (root < 0 || root >= size) return "expected a root among the ranks";
    return checkCollective(tensors, axis, size, count);
  }
  BufferList buffers() const {
    BufferList list;
    for (int64_t i = 0; i < tensors; i++) list.in("x", count[i] * bytesOf(dtype[i]));
    for (int64_t i = 0; i < tensors; i++) list.out("y", count[i] * bytesOf(dtype[i]));
    return list;
  }
};
HADAL_CONTRACT(broadcastFrom, "broadcast-from", BroadcastParams, tensors, axis, size, root, count, dtype);

}  // namespace
}  // namespace hadal
