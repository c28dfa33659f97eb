#include "ops/collectives.h"

#include <algorithm>
#include <cstring>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// ---- What a sum on the wire is: numbers are added in fp32 and rounded to the wire's format.

template <class T>
void addInto(void* into, const void* from, int64_t count) {
  T* x = static_cast<T*>(into);
  const T* y = static_cast<const T*>(from);
  forLanes(count, [&](int64_t i, auto part) { store(x + i, part, load(x + i, part) + load(y + i, part)); });
}

// A NaN on either side stays one.
template <bool greatest>
void chooseInto(void* into, const void* from, int64_t count) {
  float* x = static_cast<float*>(into);
  const float* y = static_cast<const float*>(from);
  for (int64_t i = 0; i < count; i++)
    if (y[i] != y[i] || (greatest ? y[i] > x[i] : y[i] < x[i])) x[i] = x[i] != x[i] ? x[i] : y[i];
}

Reducer reducerOf(int64_t op, DType wire) {
  if (op == static_cast<int64_t>(ReduceOp::min)) return chooseInto<false>;
  if (op == static_cast<int64_t>(ReduceOp::max)) return chooseInto<true>;
  return wire == DType::fp32 ? addInto<float> : wire == DType::bf16 ? addInto<Bf16> : addInto<Fp16>;
}

// ---- Messages

// Numbers in fp32 and in the format of the wire.
void pack(DType wire, void* to, const float* from, int64_t count, int threads) {
  dispatch(wire, [&](auto zero) {
    auto* out = static_cast<decltype(zero)*>(to);
    parallelFor(count, threads, 1 << 14, [&](int64_t begin, int64_t end, int) {
      forLanes(end - begin, [&](int64_t i, auto part) { store(out + begin + i, part, load(from + begin + i, part)); });
    });
  });
}
void unpack(DType wire, float* to, const void* from, int64_t count, int threads) {
  dispatch(wire, [&](auto zero) {
    const auto* in = static_cast<const decltype(zero)*>(from);
    parallelFor(count, threads, 1 << 14, [&](int64_t begin, int64_t end, int) {
      forLanes(end - begin, [&](int64_t i, auto part) { store(to + begin + i, part, load(in + begin + i, part)); });
    });
  });
}

HADAL_INLINE void copyBytes(void* to, const void* from, int64_t bytes) {
  if (to != from && bytes > 0) std::memmove(to, from, static_cast<size_t>(bytes));
}

// Null where the call is for one rank, which is alone; fails where the group is not the one that the program is for.
ProcessGroup* groupOf(const char* kernel, int64_t axis, int64_t size, RunContext& context) {
  ProcessGroup* group = context.groups[static_cast<size_t>(axis)];
  if (size == 1) return nullptr;
  const int found = group ? group->size() : 1;
  if (found == size) return group;
  context.fail("[%s] expected a process group of %d ranks on axis %d, got %d", kernel, static_cast<int>(size),
               static_cast<int>(axis), found);
  return nullptr;
}

// What tensors are of a message: all of a list's numbers begin at multiples of 64 bytes of it.
HADAL_INLINE int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// ---- all-reduce

HADAL_INLINE bool isPacked(const AllReduceParams& p) { return p.tensors > 1 || p.wire != DType::fp32; }

HADAL_INLINE int64_t totalCount(const int64_t* count, int64_t tensors) {
  int64_t total = 0;
  for (int64_t i = 0; i < tensors; i++) total += count[i];
  return total;
}

int64_t allReduceWorkspace(const AllReduceParams& p, int) {
  return isPacked(p) ? totalCount(p.count, p.tensors) * bytesOf(p.wire) : 0;
}

void runAllReduce(const AllReduceParams& p, void* const* buffers, RunContext& context) {
  ProcessGroup* group = groupOf("all-reduce", p.axis, p.size, context);
  if (context.failed) return;
  const auto reduce = [&](void* data, int64_t count) {
    if (group) group->allReduce(data, count, p.wire, static_cast<ReduceOp>(p.op), reducerOf(p.op, p.wire));
  };
  if (!isPacked(p)) {
    copyBytes(buffers[1], buffers[0], p.count[0] * 4);
    return reduce(buffers[1], p.count[0]);
  }
  char* message = static_cast<char*>(context.workspace);
  const int64_t bytes = bytesOf(p.wire);
  int64_t at = 0;
  for (int64_t i = 0; i < p.tensors; at += p.count[i++])
    pack(p.wire, message + at * bytes, static_cast<const float*>(buffers[i]), p.count[i], context.threads);
  reduce(message, at);
  at = 0;
  for (int64_t i = 0; i < p.tensors; at += p.count[i++])
    unpack(p.wire, static_cast<float*>(buffers[p.tensors + i]), message + at * bytes, p.count[i], context.threads);
}

// ---- reduce-scatter: the message has a part for each rank, and a part the shares of all tensors.

HADAL_INLINE int64_t totalShare(const int64_t* count, int64_t tensors, int64_t size) {
  int64_t total = 0;
  for (int64_t i = 0; i < tensors; i++) total += shareOf(count[i], size);
  return total;
}

int64_t reduceScatterWorkspace(const ReduceScatterParams& p, int) {
  const int64_t part = totalShare(p.count, p.tensors, p.size) * bytesOf(p.wire);
  return padded(part * p.size) + part;
}

void runReduceScatter(const ReduceScatterParams& p, void* const* buffers, RunContext& context) {
  ProcessGroup* group = groupOf("reduce-scatter", p.axis, p.size, context);
  if (context.failed) return;
  const int64_t bytes = bytesOf(p.wire), part = totalShare(p.count, p.tensors, p.size);
  char* message = static_cast<char*>(context.workspace);
  char* own = message + padded(part * p.size * bytes);
  for (int64_t r = 0; r < p.size; r++) {
    char* to = message + r * part * bytes;
    for (int64_t i = 0; i < p.tensors; i++) {
      const int64_t share = shareOf(p.count[i], p.size);
      const int64_t begin = std::min(r * share, p.count[i]), there = std::min(share, p.count[i] - begin);
      pack(p.wire, to, static_cast<const float*>(buffers[i]) + begin, there, context.threads);
      std::memset(to + there * bytes, 0, static_cast<size_t>((share - there) * bytes));
      to += share * bytes;
    }
  }
  if (group) {
    group->reduceScatter(message, own, part, p.wire, static_cast<ReduceOp>(p.op), reducerOf(p.op, p.wire));
  } else {
    own = message;
  }
  for (int64_t i = 0; i < p.tensors; i++) {
    const int64_t share = shareOf(p.count[i], p.size);
    unpack(p.wire, static_cast<float*>(buffers[p.tensors + i]), own, share, context.threads);
    own += share * bytes;
  }
}

// ---- all-gather

HADAL_INLINE int64_t shareBytes(const AllGatherParams& p, int64_t i) {
  return shareOf(p.count[i], p.size) * bytesOf(p.dtype[i]);
}

HADAL_INLINE int64_t partBytes(const AllGatherParams& p) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < p.tensors; i++) bytes += padded(shareBytes(p, i));
  return bytes;
}

// A single tensor without zeros at its end is gathered where it is to be.
HADAL_INLINE bool isWhole(const AllGatherParams& p) { return p.tensors == 1 && p.count[0] % p.size == 0; }

int64_t allGatherWorkspace(const AllGatherParams& p, int) { return isWhole(p) ? 0 : partBytes(p) * (p.size + 1); }

void runAllGather(const AllGatherParams& p, void* const* buffers, RunContext& context) {
  ProcessGroup* group = groupOf("all-gather", p.axis, p.size, context);
  if (context.failed) return;
  const auto gather = [&](const void* in, void* out, int64_t bytes) {
    if (group) {
      group->allGather(in, out, bytes);
    } else {
      copyBytes(out, in, bytes);
    }
  };
  if (isWhole(p)) return gather(buffers[0], buffers[1], shareBytes(p, 0));
  const int64_t part = partBytes(p);
  char *own = static_cast<char*>(context.workspace), *message = own + part;
  int64_t at = 0;
  for (int64_t i = 0; i < p.tensors; at += padded(shareBytes(p, i++)))
    copyBytes(own + at, buffers[i], shareBytes(p, i));
  gather(own, message, part);
  at = 0;
  for (int64_t i = 0; i < p.tensors; at += padded(shareBytes(p, i++))) {
    const int64_t share = shareBytes(p, i), whole = p.count[i] * bytesOf(p.dtype[i]);
    for (int64_t r = 0; r * share < whole; r++)
      copyBytes(static_cast<char*>(buffers[p.tensors + i]) + r * share, message + r * part + at,
                std::min(share, whole - r * share));
  }
}

// ---- all-to-all

HADAL_INLINE int64_t partBytes(const AllToAllParams& p) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < p.tensors; i++) bytes += p.count[i] * bytesOf(p.dtype[i]);
  return bytes;
}

int64_t allToAllWorkspace(const AllToAllParams& p, int) {
  return p.tensors == 1 || p.size == 1 ? 0 : padded(partBytes(p) * p.size) * 2;
}

void runAllToAll(const AllToAllParams& p, void* const* buffers, RunContext& context) {
  ProcessGroup* group = groupOf("all-to-all", p.axis, p.size, context);
  if (context.failed) return;
  if (!group) {
    for (int64_t i = 0; i < p.tensors; i++)
      copyBytes(buffers[p.tensors + i], buffers[i], p.count[i] * bytesOf(p.dtype[i]));
    return;
  }
  const int64_t part = partBytes(p);
  if (p.tensors == 1) return group->allToAll(buffers[0], buffers[1], part);
  char *sent = static_cast<char*>(context.workspace), *received = sent + padded(part * p.size);
  const auto forParts = [&](auto&& body) {
    for (int64_t r = 0; r < p.size; r++) {
      int64_t at = r * part;
      for (int64_t i = 0; i < p.tensors; i++) {
        const int64_t bytes = p.count[i] * bytesOf(p.dtype[i]);
        body(i, r * bytes, at, bytes);
        at += bytes;
      }
    }
  };
  forParts([&](int64_t i, int64_t offset, int64_t at, int64_t bytes) {
    copyBytes(sent + at, static_cast<const char*>(buffers[i]) + offset, bytes);
  });
  group->allToAll(sent, received, part);
  forParts([&](int64_t i, int64_t offset, int64_t at, int64_t bytes) {
    copyBytes(static_cast<char*>(buffers[p.tensors + i]) + offset, received + at, bytes);
  });
}

// ---- broadcast-from

int64_t broadcastBytes(const BroadcastParams& p) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < p.tensors; i++) bytes += p.count[i] * bytesOf(p.dtype[i]);
  return bytes;
}

int64_t broadcastWorkspace(const BroadcastParams& p, int) { return p.tensors > 1 ? broadcastBytes(p) : 0; }

void runBroadcast(const BroadcastParams& p, void* const* buffers, RunContext& context) {
  ProcessGroup* group = groupOf("broadcast-from", p.axis, p.size, context);
  if (context.failed) return;
  const auto bytesOfTensor = [&](int64_t i) { return p.count[i] * bytesOf(p.dtype[i]); };
  if (!group || p.tensors == 1) {
    for (int64_t i = 0; i < p.tensors; i++) copyBytes(buffers[p.tensors + i], buffers[i], bytesOfTensor(i));
    if (group) group->broadcast(buffers[1], bytesOfTensor(0), static_cast<int>(p.root));
    return;
  }
  char* message = static_cast<char*>(context.workspace);
  int64_t at = 0;
  for (int64_t i = 0; i < p.tensors; at += bytesOfTensor(i++)) copyBytes(message + at, buffers[i], bytesOfTensor(i));
  group->broadcast(message, at, static_cast<int>(p.root));
  at = 0;
  for (int64_t i = 0; i < p.tensors; at += bytesOfTensor(i++))
    copyBytes(buffers[p.tensors + i], message + at, bytesOfTensor(i));
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(allReduce, AllReduceParams, runAllReduce, allReduceWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(reduceScatter, ReduceScatterParams, runReduceScatter, reduceScatterWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(allGather, AllGatherParams, runAllGather, allGatherWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(allToAll, AllToAllParams, runAllToAll, allToAllWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(broadcastFrom, BroadcastParams, runBroadcast, broadcastWorkspace)

}  // namespace HADAL_ISA
}  // namespace hadal
