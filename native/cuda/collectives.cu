// Formulas, shapes, bytes: native/ops/collectives.h. Tensors are packed into one message in the workspace, which the process
// group of the axis takes on, and unpacked from it; a single tensor in fp32 travels where it lies. The message is laid out as
// the CPU's. A group that works on streams (NCCL) puts the collective between the two kernels; another one (Gloo) works on
// the host's side, in pinned memory: the stream is waited for, so that such a step cannot be captured in a graph.
#include "ops/collectives.h"

#include <algorithm>
#include <cstring>

#include "cuda/launch.cuh"
#include "runtime.h"

namespace hadal {
namespace cuda {
namespace collectives {

// ---- Packing

// Units that a thread moves, each of up to 16 bytes: enough for what finds a block's piece not to count.
constexpr int64_t unitsEach = 4;
constexpr int64_t blockUnits = unitsEach * threads;

// What a tensor is of a message of some parts. A part has `share` units of it; the tensor has `count`, and what lies beyond
// them in the last parts is zeros.
struct Piece {
  void* tensor;
  int64_t at;  // bytes from the beginning of a part
  int64_t share, count;
  unsigned first;  // block
  unsigned unit;   // bytes of a unit in the tensor
};

struct Pieces {
  Piece items[maxCollective];
  int count = 0;
  unsigned blocks = 0;

  void add(void* tensor, int64_t at, int64_t shareBytes, int64_t bytes, int64_t unit) {
    items[count++] = {tensor, at, shareBytes / unit, bytes / unit, blocks, static_cast<unsigned>(unit)};
    blocks += blocksFor(shareBytes / unit, blockUnits);
  }
};

struct Message {
  char* at;
  int64_t partBytes, parts;
};

__device__ __forceinline__ const Piece& pieceOfBlock(const Pieces& pieces) {
  int i = 0;
  for (int step = maxCollective / 2; step > 0; step /= 2)
    if (i + step < pieces.count && pieces.items[i + step].first <= blockIdx.x) i += step;
  return pieces.items[i];
}

template <class To, class From>
struct Conversion {
  static __device__ __forceinline__ To of(const From& x) { return fromFloat<To>(toFloat(x)); }
};
template <class T>
struct Conversion<T, T> {
  static __device__ __forceinline__ T of(const T& x) { return x; }
};
template <class To, class From, int items>
struct Conversion<Pack<To, items>, Pack<From, items>> {
  static __device__ __forceinline__ Pack<To, items> of(const Pack<From, items>& x) {
    Pack<To, items> y;
    for (int i = 0; i < items; i++) y.at[i] = Conversion<To, From>::of(x.at[i]);
    return y;
  }
};
template <class T, int items>
struct Conversion<Pack<T, items>, Pack<T, items>> {
  static __device__ __forceinline__ Pack<T, items> of(const Pack<T, items>& x) { return x; }
};

// T: unit of the tensor, W: of the message.
template <class T, class W, bool isPacking>
__device__ __forceinline__ void moveUnits(const Piece& piece, const Message& message) {
  T* const tensor = static_cast<T*>(piece.tensor);
  const int64_t share = piece.share, count = piece.count;
  const int64_t begin = (blockIdx.x - piece.first) * blockUnits, end = min(begin + blockUnits, share);
  for (int64_t r = blockIdx.y; r < message.parts; r += gridDim.y) {
    W* const part = reinterpret_cast<W*>(message.at + r * message.partBytes + piece.at);
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
      const bool isThere = r * share + i < count;
      if constexpr (isPacking) {
        T unit{};
        if (isThere) unit = tensor[r * share + i];
        part[i] = Conversion<W, T>::of(unit);
      } else if (isThere) {
        const W unit = part[i];
        tensor[r * share + i] = Conversion<T, W>::of(unit);
      }
    }
  }
}

// Between fp32 and the format of the wire.
template <class W, bool isPacking>
__device__ void convert(const Pieces& pieces, const Message& message) {
  const Piece& piece = pieceOfBlock(pieces);
  if (piece.unit == 16) {
    moveUnits<Pack<float, 4>, Pack<W, 4>, isPacking>(piece, message);
  } else {
    moveUnits<float, W, isPacking>(piece, message);
  }
}
template <bool isPacking>
__device__ void move(const Pieces& pieces, const Message& message) {
  const Piece& piece = pieceOfBlock(pieces);
  if (piece.unit == 16) {
    moveUnits<Pack<uint32_t, 4>, Pack<uint32_t, 4>, isPacking>(piece, message);
  } else if (piece.unit == 4) {
    moveUnits<uint32_t, uint32_t, isPacking>(piece, message);
  } else if (piece.unit == 2) {
    moveUnits<uint16_t, uint16_t, isPacking>(piece, message);
  } else {
    moveUnits<uint8_t, uint8_t, isPacking>(piece, message);
  }
}

template <bool isPacking>
void launchMoves(RunContext& context, const Pieces& pieces, const Message& message) {
  const Grid grid{.x = pieces.blocks, .y = static_cast<unsigned>(std::min<int64_t>(message.parts, 65535))};
  launch<move<isPacking>, threads>(context, grid, pieces, message);
}
template <bool isPacking>
void launchConversions(RunContext& context, DType wire, const Pieces& pieces, const Message& message) {
  if (wire == DType::fp32) return launchMoves<isPacking>(context, pieces, message);
  const Grid grid{.x = pieces.blocks, .y = static_cast<unsigned>(std::min<int64_t>(message.parts, 65535))};
  if (wire == DType::bf16) {
    launch<convert<Bf16, isPacking>, threads>(context, grid, pieces, message);
  } else {
    launch<convert<F16, isPacking>, threads>(context, grid, pieces, message);
  }
}

// The greatest unit of which all the given bytes, addresses among them, are multiples.
int64_t unitOf(std::initializer_list<int64_t> bytes) {
  for (const int64_t unit : {16, 4, 2})
    if (std::all_of(bytes.begin(), bytes.end(), [&](int64_t one) { return one % unit == 0; })) return unit;
  return 1;
}
int64_t addressOf(const void* p) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)); }

// Of fp32 tensors: of a tensor's `counts` a part has `shares`.
template <class Share>
Pieces piecesOf(int64_t tensors, const int64_t* count, void* const* buffers, DType wire, const Message& message,
                Share&& share, bool isWhole) {
  Pieces pieces;
  const int64_t bytes = bytesOf(wire);
  int64_t at = 0;
  for (int64_t i = 0; i < tensors; i++) {
    const int64_t each = share(count[i]), there = isWhole ? count[i] : each;
    // In units of four numbers of the tensor, four of the message must be aligned as well.
    const int64_t wide = 4 / bytes;
    const int64_t unit = unitOf(
        {addressOf(buffers[i]), there * 4, each * 4, addressOf(message.at + at) * wide, message.partBytes * wide});
    pieces.add(buffers[i], at, each * 4, there * 4, unit == 16 ? 16 : 4);
    at += each * bytes;
  }
  return pieces;
}

void copy(RunContext& context, void* to, const void* from, int64_t bytes) {
  if (to == from || bytes == 0) return;
  Pieces pieces;
  pieces.add(const_cast<void*>(from), 0, bytes, bytes, unitOf({addressOf(to), addressOf(from), bytes}));
  launchMoves<true>(context, pieces, {static_cast<char*>(to), bytes, 1});
}

// ---- Groups

void callOnStream(void* stream, void (*function)(void*), void* data) {
  cudaLaunchHostFunc(static_cast<cudaStream_t>(stream), function, data);
}

// The host cannot know a predicate: all ranks, whose predicates are the same, exchange a message in any case, and where they
// say 0 it is neither packed nor unpacked. Fails for a tensor that travels where it lies.
void expectNoPredicate(const char* kernel, RunContext& context) {
  if (context.predicate) context.fail("[%s] expected no predicate where a single tensor travels", kernel);
}

// Pinned memory of a thread that calls groups which work on the host's side: it grows to the largest message there was.
class Staging {
 public:
  Staging() = default;
  Staging(const Staging&) = delete;
  ~Staging() { cudaFreeHost(data_); }

  char* take(int64_t bytes, RunContext& context) {
    if (bytes <= bytes_) return data_;
    cudaFreeHost(data_);
    data_ = nullptr, bytes_ = 0;
    void* data = nullptr;
    if (cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault) != cudaSuccess) {
      cudaGetLastError();
      context.fail("[cuda] expected %lld bytes of pinned memory for messages", static_cast<long long>(bytes));
      return nullptr;
    }
    bytes_ = bytes;
    return data_ = static_cast<char*>(data);
  }

 private:
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

Staging& stagingOfThread() {
  static thread_local Staging staging;
  return staging;
}

// Has the group work on memory of the device, by call(in, out); `in` may be `out`.
template <class Call>
void communicate(ProcessGroup& group, RunContext& context, void* in, int64_t inBytes, void* out, int64_t outBytes,
                 Call&& call) {
  if (context.failed) return;
  if (group.worksOnStreams()) {
    group.useStream(context.stream, callOnStream);
    call(in, out);
    return group.useStream(nullptr, nullptr);
  }
  const int64_t second = in == out ? 0 : (inBytes + 63) / 64 * 64;
  char* const host = stagingOfThread().take(second + outBytes, context);
  if (context.failed) return;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const auto finish = [&](cudaError_t error) {
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    if (error != cudaSuccess)
      context.fail("[cuda] cannot copy a message between the GPU and the host: %s", cudaGetErrorString(error));
  };
  finish(cudaMemcpyAsync(host, in, static_cast<size_t>(inBytes), cudaMemcpyDeviceToHost, stream));
  if (context.failed) return;
  call(host, host + second);
  finish(cudaMemcpyAsync(out, host + second, static_cast<size_t>(outBytes), cudaMemcpyHostToDevice, stream));
}

// Null where the call is for one rank, which is alone; fails where the group is not the one that the program is for.
ProcessGroup* groupOf(const char* kernel, int64_t axis, int64_t size, RunContext& context) {
  ProcessGroup* const group = context.groups[static_cast<size_t>(axis)];
  if (size == 1) return nullptr;
  const int found = group ? group->size() : 1;
  if (found != size) {
    context.fail("[%s] expected a process group of %d ranks on axis %d, got %d", kernel, static_cast<int>(size),
                 static_cast<int>(axis), found);
  }
  return context.failed ? nullptr : group;
}

// ---- What a sum on the wire is, where the group works on the host's side: numbers are added in fp32 and rounded.

float widened(float x) { return x; }
float widened(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
float widened(Fp16 x) { return static_cast<float>(x); }
void narrow(float& y, float x) { y = x; }
void narrow(Bf16& y, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  y.bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
void narrow(Fp16& y, float x) { y = static_cast<Fp16>(x); }

template <class T>
void addInto(void* into, const void* from, int64_t count) {
  T* const x = static_cast<T*>(into);
  const T* const y = static_cast<const T*>(from);
  for (int64_t i = 0; i < count; i++) narrow(x[i], widened(x[i]) + widened(y[i]));
}

// A NaN on either side stays one.
template <bool isGreatest>
void chooseInto(void* into, const void* from, int64_t count) {
  float* const x = static_cast<float*>(into);
  const float* const y = static_cast<const float*>(from);
  for (int64_t i = 0; i < count; i++)
    if (y[i] != y[i] || (isGreatest ? y[i] > x[i] : y[i] < x[i])) x[i] = x[i] != x[i] ? x[i] : y[i];
}

Reducer reducerOf(int64_t op, DType wire) {
  if (op == static_cast<int64_t>(ReduceOp::min)) return chooseInto<false>;
  if (op == static_cast<int64_t>(ReduceOp::max)) return chooseInto<true>;
  return wire == DType::fp32 ? addInto<float> : wire == DType::bf16 ? addInto<Bf16> : addInto<Fp16>;
}

// ---- What a rank whose step has failed adds to sums: NaN. Its kernels do nothing any more, but the others wait for its
// message, and must not take what lies there for gradients.

// A step that has not failed: what lets a kernel run in one that has.
constexpr int64_t calmBytes = 64;
static_assert(sizeof(Fault) <= calmBytes);

template <class W>
__device__ void spoil(const Fault* fault, W* message, int64_t count) {
  if (!fault->isRaised) return;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step)
    message[i] = fromFloat<W>(NAN);
}

template <class W>
void launchSpoil(RunContext& context, void* calm, void* message, int64_t count) {
  const Fault* const fault = context.fault;
  context.fault = static_cast<Fault*>(calm);
  // A block a multiprocessor: hardly ever have they anything to do.
  launch<spoil<W>, threads>(context, {.x = static_cast<unsigned>(context.processors)}, fault, static_cast<W*>(message),
                            count);
  context.fault = const_cast<Fault*>(fault);
}

void spoilAfterFault(RunContext& context, DType wire, void* calm, void* message, int64_t count) {
  if (context.failed) return;
  const cudaError_t error = cudaMemsetAsync(calm, 0, calmBytes, static_cast<cudaStream_t>(context.stream));
  if (error != cudaSuccess) return context.fail("[cuda] cannot fill with zeros: %s", cudaGetErrorString(error));
  if (wire == DType::fp32) return launchSpoil<float>(context, calm, message, count);
  wire == DType::bf16 ? launchSpoil<Bf16>(context, calm, message, count)
                      : launchSpoil<F16>(context, calm, message, count);
}

int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// ---- all-reduce

bool isPacked(const AllReduceParams& p) { return p.tensors > 1 || p.wire != DType::fp32; }

int64_t totalCount(const int64_t* count, int64_t tensors) {
  int64_t total = 0;
  for (int64_t i = 0; i < tensors; i++) total += count[i];
  return total;
}

int64_t allReduceWorkspace(const AllReduceParams& p, int) {
  return calmBytes + (isPacked(p) ? totalCount(p.count, p.tensors) * bytesOf(p.wire) : 0);
}

void runAllReduce(const AllReduceParams& p, void* const* b, RunContext& context) {
  ProcessGroup* const group = groupOf("all-reduce", p.axis, p.size, context);
  if (context.failed) return;
  char* const workspace = static_cast<char*>(context.workspace);
  const auto reduce = [&](void* data, int64_t count) {
    if (!group) return;
    spoilAfterFault(context, p.wire, workspace, data, count);
    const int64_t bytes = count * bytesOf(p.wire);
    communicate(*group, context, data, bytes, data, bytes, [&](void* in, void*) {
      group->allReduce(in, count, p.wire, static_cast<ReduceOp>(p.op), reducerOf(p.op, p.wire));
    });
  };
  if (!isPacked(p)) {
    if (group) expectNoPredicate("all-reduce", context);
    copy(context, b[1], b[0], p.count[0] * 4);
    return reduce(b[1], p.count[0]);
  }
  const int64_t total = totalCount(p.count, p.tensors);
  const Message message{workspace + calmBytes, total * bytesOf(p.wire), 1};
  const auto all = [](int64_t count) { return count; };
  launchConversions<true>(context, p.wire, piecesOf(p.tensors, p.count, b, p.wire, message, all, true), message);
  reduce(message.at, total);
  launchConversions<false>(context, p.wire, piecesOf(p.tensors, p.count, b + p.tensors, p.wire, message, all, true),
                           message);
}

// ---- reduce-scatter: the message has a part for each rank, and a part the shares of all tensors.

int64_t totalShare(const ReduceScatterParams& p) {
  int64_t total = 0;
  for (int64_t i = 0; i < p.tensors; i++) total += shareOf(p.count[i], p.size);
  return total;
}

int64_t reduceScatterWorkspace(const ReduceScatterParams& p, int) {
  const int64_t part = totalShare(p) * bytesOf(p.wire);
  return calmBytes + padded(part * p.size) + part;
}

void runReduceScatter(const ReduceScatterParams& p, void* const* b, RunContext& context) {
  ProcessGroup* const group = groupOf("reduce-scatter", p.axis, p.size, context);
  if (context.failed) return;
  const int64_t count = totalShare(p), part = count * bytesOf(p.wire);
  char* const workspace = static_cast<char*>(context.workspace);
  const Message message{workspace + calmBytes, part, p.size};
  const auto share = [&](int64_t all) { return shareOf(all, p.size); };
  launchConversions<true>(context, p.wire, piecesOf(p.tensors, p.count, b, p.wire, message, share, true), message);
  Message own{message.at, part, 1};
  if (group) {
    own.at += padded(part * p.size);
    spoilAfterFault(context, p.wire, workspace, message.at, count * p.size);
    communicate(*group, context, message.at, part * p.size, own.at, part, [&](void* in, void* out) {
      group->reduceScatter(in, out, count, p.wire, static_cast<ReduceOp>(p.op), reducerOf(p.op, p.wire));
    });
  }
  launchConversions<false>(context, p.wire, piecesOf(p.tensors, p.count, b + p.tensors, p.wire, own, share, false),
                           own);
}

// ---- all-gather

int64_t shareBytes(const AllGatherParams& p, int64_t i) { return shareOf(p.count[i], p.size) * bytesOf(p.dtype[i]); }

int64_t partBytes(const AllGatherParams& p) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < p.tensors; i++) bytes += padded(shareBytes(p, i));
  return bytes;
}

// A single tensor without zeros at its end is gathered where it is to be.
bool isWhole(const AllGatherParams& p) { return p.tensors == 1 && p.count[0] % p.size == 0; }

int64_t allGatherWorkspace(const AllGatherParams& p, int) { return isWhole(p) ? 0 : partBytes(p) * (p.size + 1); }

void runAllGather(const AllGatherParams& p, void* const* b, RunContext& context) {
  ProcessGroup* const group = groupOf("all-gather", p.axis, p.size, context);
  if (context.failed) return;
  const auto gather = [&](void* in, void* out, int64_t bytes) {
    if (!group) return copy(context, out, in, bytes);
    communicate(*group, context, in, bytes, out, bytes * p.size,
                [&](void* from, void* to) { group->allGather(from, to, bytes); });
  };
  if (isWhole(p)) {
    if (!group || !context.predicate) return gather(b[0], b[1], shareBytes(p, 0));
    // Where the predicate says 0, the ranks tell each other what they have: the same.
    char* const own = static_cast<char*>(b[1]) + group->rank() * shareBytes(p, 0);
    copy(context, own, b[0], shareBytes(p, 0));
    return gather(own, b[1], shareBytes(p, 0));
  }
  const int64_t part = partBytes(p);
  const Message own{static_cast<char*>(context.workspace), part, 1}, message{own.at + part, part, p.size};
  Pieces shares, wholes;
  int64_t at = 0;
  for (int64_t i = 0; i < p.tensors; at += padded(shareBytes(p, i++))) {
    const int64_t share = shareBytes(p, i), whole = p.count[i] * bytesOf(p.dtype[i]);
    shares.add(b[i], at, share, share, unitOf({addressOf(b[i]), share}));
    wholes.add(b[p.tensors + i], at, share, whole, unitOf({addressOf(b[p.tensors + i]), share, whole}));
  }
  launchMoves<true>(context, shares, own);
  gather(own.at, message.at, part);
  launchMoves<false>(context, wholes, message);
}

// ---- all-to-all

template <class Params>
int64_t totalBytes(const Params& p) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < p.tensors; i++) bytes += p.count[i] * bytesOf(p.dtype[i]);
  return bytes;
}

int64_t allToAllWorkspace(const AllToAllParams& p, int) {
  return p.tensors == 1 || p.size == 1 ? 0 : padded(totalBytes(p) * p.size) * 2;
}

// Tensors of `parts` parts, one after the other in each part of the message.
template <class Params>
Pieces rawPieces(const Params& p, void* const* buffers, const Message& message) {
  Pieces pieces;
  int64_t at = 0;
  for (int64_t i = 0; i < p.tensors; i++) {
    const int64_t share = p.count[i] * bytesOf(p.dtype[i]);
    pieces.add(buffers[i], at, share, share * message.parts,
               unitOf({addressOf(buffers[i]), addressOf(message.at + at), share, message.partBytes}));
    at += share;
  }
  return pieces;
}

void runAllToAll(const AllToAllParams& p, void* const* b, RunContext& context) {
  ProcessGroup* const group = groupOf("all-to-all", p.axis, p.size, context);
  if (context.failed) return;
  if (!group) {
    for (int64_t i = 0; i < p.tensors; i++) copy(context, b[p.tensors + i], b[i], p.count[i] * bytesOf(p.dtype[i]));
    return;
  }
  const int64_t part = totalBytes(p), bytes = part * p.size;
  const auto exchange = [&](void* in, void* out) {
    communicate(*group, context, in, bytes, out, bytes, [&](void* from, void* to) { group->allToAll(from, to, part); });
  };
  if (p.tensors == 1) {
    expectNoPredicate("all-to-all", context);
    return exchange(b[0], b[1]);
  }
  const Message sent{static_cast<char*>(context.workspace), part, p.size};
  const Message received{sent.at + padded(bytes), part, p.size};
  launchMoves<true>(context, rawPieces(p, b, sent), sent);
  exchange(sent.at, received.at);
  launchMoves<false>(context, rawPieces(p, b + p.tensors, received), received);
}

// ---- broadcast-from

int64_t broadcastWorkspace(const BroadcastParams& p, int) { return p.tensors > 1 ? totalBytes(p) : 0; }

void runBroadcast(const BroadcastParams& p, void* const* b, RunContext& context) {
  ProcessGroup* const group = groupOf("broadcast-from", p.axis, p.size, context);
  if (context.failed) return;
  const auto spread = [&](void* data, int64_t bytes) {
    communicate(*group, context, data, bytes, data, bytes,
                [&](void* on, void*) { group->broadcast(on, bytes, static_cast<int>(p.root)); });
  };
  if (!group || p.tensors == 1) {
    if (group) expectNoPredicate("broadcast-from", context);
    for (int64_t i = 0; i < p.tensors; i++) copy(context, b[p.tensors + i], b[i], p.count[i] * bytesOf(p.dtype[i]));
    if (group) spread(b[1], totalBytes(p));
    return;
  }
  const Message message{static_cast<char*>(context.workspace), totalBytes(p), 1};
  launchMoves<true>(context, rawPieces(p, b, message), message);
  spread(message.at, message.partBytes);
  launchMoves<false>(context, rawPieces(p, b + p.tensors, message), message);
}

}  // namespace collectives

HADAL_KERNEL_WITH_WORKSPACE(allReduce, AllReduceParams, collectives::runAllReduce, collectives::allReduceWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(reduceScatter, ReduceScatterParams, collectives::runReduceScatter,
                            collectives::reduceScatterWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(allGather, AllGatherParams, collectives::runAllGather, collectives::allGatherWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(allToAll, AllToAllParams, collectives::runAllToAll, collectives::allToAllWorkspace)
HADAL_KERNEL_WITH_WORKSPACE(broadcastFrom, BroadcastParams, collectives::runBroadcast, collectives::broadcastWorkspace)

}  // namespace cuda
}  // namespace hadal
