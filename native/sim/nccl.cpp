// A stand-in for NCCL: its interface, where ranks are threads of one process
// that meet by unique id and work on host memory. Collectives are done by the
// last rank that comes, which reduces in the order of ranks, in fp32. A rank
// that aborts or leaves shows as ncclRemoteError at those that wait for it.
// Without a stream a rank comes when it calls, and asks by cuStreamQuery; on a
// stream (of the simulated GPU) it comes when the stream does, which then waits
// for the others, as a kernel of NCCL does.
// Tests open it in NCCL's place, so that several devices of one process form a
// group and the code around NCCL runs as it does with the real one.
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/nccl-api.h"
#include "core/dtype.h"

#define HADAL_EXPORT extern "C" __attribute__((visibility("default")))

using hadal::nccl::Config;
using hadal::nccl::DataType;
using hadal::nccl::RedOp;
using hadal::nccl::Result;
using hadal::nccl::Stream;
using hadal::nccl::StreamState;
using hadal::nccl::UniqueId;

namespace {

enum class Kind { allReduce, reduceScatter, allGather, broadcast };

// What one rank put on its stream.
struct Operation {
  Kind kind;
  const void* send;
  void* receive;
  size_t count;
  DataType type;
  RedOp op;
  int root;
  std::shared_ptr<bool> done;
};

struct Message {
  const void* send;
  void* receive;
  size_t bytes;
  std::shared_ptr<bool> done;
};

// The ranks that met. All of it is under `mutex`.
struct Clique {
  explicit Clique(int ranks) : ranks(ranks), queues(ranks), joined(ranks), left(ranks), errors(ranks) {}
  const int ranks;
  int joinedCount = 0, leftCount = 0;
  std::vector<std::deque<Operation>> queues;  // of each rank: collectives that others have not come to yet
  std::vector<bool> joined, left;
  std::vector<Result> errors;
  std::map<std::pair<int, int>, std::deque<Message>> sends,
      receives;  // by (from, to)
};

std::mutex mutex;
std::condition_variable changed;  // something is done, or a rank learns that it will not be

std::map<std::string, std::shared_ptr<Clique>>& cliques() {
  static std::map<std::string, std::shared_ptr<Clique>> all;
  return all;
}

// What this thread put on streams and is not known to be done.
thread_local std::vector<std::shared_ptr<bool>> pending;

size_t bytesOf(DataType type) {
  return type == DataType::float32 || type == DataType::int32      ? 4
         : type == DataType::float16 || type == DataType::bfloat16 ? 2
                                                                   : 1;
}

float toFloat(hadal::Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}
template <class T>
auto widened(T value) {
  if constexpr (std::is_same_v<T, hadal::Bf16>) {
    return toFloat(value);
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<int64_t>(value);
  } else {
    return static_cast<float>(value);
  }
}
template <class T, class W>
T narrowed(W value) {
  if constexpr (std::is_same_v<T, hadal::Bf16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (value != value) return {0x7fc0};
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};  // to nearest, ties to even
  } else {
    return static_cast<T>(value);
  }
}

template <class T>
void reduceAs(const std::vector<const void*>& from, void* to, size_t count, RedOp op) {
  for (size_t i = 0; i < count; i++) {
    auto result = widened(static_cast<const T*>(from[0])[i]);
    for (size_t r = 1; r < from.size(); r++) {
      const auto next = widened(static_cast<const T*>(from[r])[i]);
      if (op == RedOp::sum) {
        result += next;
      } else if (op == RedOp::min ? next < result : next > result) {
        result = next;
      } else if (next != next) {
        result = next;
      }
    }
    static_cast<T*>(to)[i] = narrowed<T>(result);
  }
}

// `to` may be one of `from`.
void reduce(const std::vector<const void*>& from, void* to, size_t count, DataType type, RedOp op) {
  switch (type) {
    case DataType::float32:
      return reduceAs<float>(from, to, count, op);
    case DataType::bfloat16:
      return reduceAs<hadal::Bf16>(from, to, count, op);
    case DataType::float16:
      return reduceAs<hadal::Fp16>(from, to, count, op);
    case DataType::int32:
      return reduceAs<int32_t>(from, to, count, op);
    case DataType::uint8:
      return reduceAs<uint8_t>(from, to, count, op);
    case DataType::int8:
      return reduceAs<int8_t>(from, to, count, op);
  }
}

// Every rank has come.
void perform(const std::vector<Operation>& all) {
  const Operation& first = all[0];
  const size_t bytes = first.count * bytesOf(first.type);
  if (first.kind == Kind::allReduce || first.kind == Kind::reduceScatter) {
    // Complete before anyone's output is written: it may be another's input.
    const size_t parts = first.kind == Kind::allReduce ? 1 : all.size();
    std::vector<char> result(bytes * parts);
    std::vector<const void*> from;
    for (const Operation& each : all) from.push_back(each.send);
    reduce(from, result.data(), first.count * parts, first.type, first.op);
    for (size_t r = 0; r < all.size(); r++)
      std::memcpy(all[r].receive, result.data() + (parts == 1 ? 0 : r * bytes), bytes);
  } else if (first.kind == Kind::allGather) {
    for (const Operation& to : all)
      for (size_t r = 0; r < all.size(); r++)
        std::memmove(static_cast<char*>(to.receive) + r * bytes, all[r].send, bytes);
  } else {
    for (const Operation& to : all) std::memmove(to.receive, all[static_cast<size_t>(first.root)].send, bytes);
  }
}

bool isSame(const Operation& a, const Operation& b) {
  return a.kind == b.kind && a.count == b.count && a.type == b.type && a.op == b.op && a.root == b.root;
}

}  // namespace

namespace hadal::nccl {

struct Comm {
  std::shared_ptr<Clique> clique;
  std::string id;
  int rank;
};

}  // namespace hadal::nccl

using hadal::nccl::Comm;

namespace {

// What a call does once its rank comes, under `mutex`; the flag is set when it is done.
using Work = std::function<Result(Clique& clique, int rank, const std::shared_ptr<bool>& done)>;

struct Part {
  std::shared_ptr<Clique> clique;
  int rank;
  Work work;
};
// What is put on a stream at once: all of it is under way before any of it is waited for.
struct StreamCall {
  std::vector<Part> parts;
};

std::atomic<void (*)(Stream, void (*)(void*), void*)> putOnStream{nullptr};
// Of the group that this thread has begun.
thread_local int groupDepth = 0;
thread_local Stream groupStream = nullptr;
thread_local std::vector<Part> groupParts;

void runStreamCall(void* data) {
  std::unique_lock lock(mutex);
  std::vector<std::shared_ptr<bool>> done;
  const auto& parts = static_cast<const StreamCall*>(data)->parts;
  const auto isOver = [](const Part& part) {
    const auto r = static_cast<size_t>(part.rank);
    return part.clique->left[r] || part.clique->errors[r] != Result::success;
  };
  for (const Part& part : parts) {
    if (isOver(part)) return;
    done.push_back(std::make_shared<bool>(false));
    const Result result = part.work(*part.clique, part.rank, done.back());
    if (result != Result::success) part.clique->errors[static_cast<size_t>(part.rank)] = result;
  }
  for (size_t i = 0; i < parts.size(); i++) changed.wait(lock, [&] { return *done[i] || isOver(parts[i]); });
}

Result putGroupOnStream() {
  if (groupParts.empty()) return Result::success;
  // Kept for good: a graph may have it run again.
  static auto& calls = *new std::deque<StreamCall>;
  StreamCall* call;
  {
    std::lock_guard lock(mutex);
    call = &calls.emplace_back(StreamCall{std::move(groupParts)});
  }
  groupParts.clear();
  const auto put = putOnStream.load();
  if (!put) return Result::invalidUsage;
  put(groupStream, runStreamCall, call);
  return Result::success;
}

Result submit(Comm* comm, Stream stream, Work work) {
  if (stream) {
    groupStream = stream;
    groupParts.push_back({comm->clique, comm->rank, std::move(work)});
    return groupDepth > 0 ? Result::success : putGroupOnStream();
  }
  std::lock_guard lock(mutex);
  auto done = std::make_shared<bool>(false);
  pending.push_back(done);
  return work(*comm->clique, comm->rank, done);
}

// NCCL hangs or ends where ranks do not fit together; here it is an error at
// all of them.
void failAll(Clique& clique, Result error) {
  for (Result& each : clique.errors)
    if (each == Result::success) each = error;
  changed.notify_all();
}

Result post(Clique& clique, int rank, Operation operation) {
  clique.queues[static_cast<size_t>(rank)].push_back(operation);
  std::vector<Operation> all;
  for (size_t r = 0; r < clique.queues.size(); r++) {
    if (!clique.queues[r].empty()) {
      all.push_back(clique.queues[r].front());
    } else if (clique.left[r]) {
      clique.errors[static_cast<size_t>(rank)] = Result::remoteError;
    }
  }
  if (all.size() != clique.queues.size()) return Result::success;
  for (auto& queue : clique.queues) queue.pop_front();
  for (const Operation& each : all)
    if (!isSame(each, all[0])) {
      failAll(clique, Result::invalidUsage);
      return Result::success;
    }
  perform(all);
  for (const Operation& each : all) *each.done = true;
  changed.notify_all();
  return Result::success;
}

Result postTo(Comm* comm, Stream stream, Operation operation) {
  return submit(comm, stream, [operation](Clique& clique, int rank, const std::shared_ptr<bool>& done) {
    Operation own = operation;
    own.done = done;
    return post(clique, rank, own);
  });
}

// One end of a message: meets the other one or waits for it.
Result exchange(Clique& clique, int rank, int peer, bool isSend, const Message& message) {
  const std::pair<int, int> way = isSend ? std::pair(rank, peer) : std::pair(peer, rank);
  auto& others = (isSend ? clique.receives : clique.sends)[way];
  if (others.empty()) {
    if (clique.left[static_cast<size_t>(peer)]) clique.errors[static_cast<size_t>(rank)] = Result::remoteError;
    (isSend ? clique.sends : clique.receives)[way].push_back(message);
    return Result::success;
  }
  const Message other = others.front();
  others.pop_front();
  if (other.bytes != message.bytes) {
    failAll(clique, Result::invalidUsage);
    return Result::success;
  }
  if (message.bytes > 0)
    std::memmove(isSend ? other.receive : message.receive, isSend ? message.send : other.send, message.bytes);
  *other.done = *message.done = true;
  changed.notify_all();
  return Result::success;
}

Result exchangeWith(Comm* comm, Stream stream, int peer, bool isSend, Message message) {
  if (peer < 0 || peer >= comm->clique->ranks) return Result::invalidArgument;
  return submit(comm, stream, [=](Clique& clique, int rank, const std::shared_ptr<bool>& done) {
    Message own = message;
    own.done = done;
    return exchange(clique, rank, peer, isSend, own);
  });
}

// Who waits for this rank waits in vain, and nobody touches its memory any more.
void leave(Comm* comm) {
  std::lock_guard lock(mutex);
  Clique& clique = *comm->clique;
  const int gone = comm->rank;
  clique.left[static_cast<size_t>(gone)] = true;
  clique.queues[static_cast<size_t>(gone)].clear();
  for (int r = 0; r < clique.ranks; r++) {
    clique.sends.erase({gone, r});
    clique.receives.erase({r, gone});
    const bool waits = clique.joinedCount < clique.ranks || !clique.queues[static_cast<size_t>(r)].empty() ||
                       !clique.sends[{r, gone}].empty() || !clique.receives[{gone, r}].empty();
    auto& error = clique.errors[static_cast<size_t>(r)];
    if (waits && error == Result::success) error = Result::remoteError;
  }
  if (++clique.leftCount == clique.joinedCount) cliques().erase(comm->id);
  changed.notify_all();
  delete comm;
}

}  // namespace

HADAL_EXPORT Result ncclGetVersion(int* version) {
  *version = 21400;
  return Result::success;
}

HADAL_EXPORT Result ncclGetUniqueId(UniqueId* id) {
  static uint64_t count = 0;
  std::lock_guard lock(mutex);
  std::memset(id, 0, sizeof(*id));
  count++;
  std::memcpy(id->internal, &count, sizeof(count));
  return Result::success;
}

HADAL_EXPORT Result ncclCommInitRankConfig(Comm** comm, int ranks, UniqueId id, int rank, Config* config) {
  if (ranks < 1 || rank < 0 || rank >= ranks || config->magic != 0xcafebeef) return Result::invalidArgument;
  std::lock_guard lock(mutex);
  const std::string name(id.internal, sizeof(id.internal));
  auto& clique = cliques()[name];
  if (!clique) clique = std::make_shared<Clique>(ranks);
  if (clique->ranks != ranks || clique->joined[static_cast<size_t>(rank)]) return Result::invalidArgument;
  clique->joined[static_cast<size_t>(rank)] = true;
  clique->joinedCount++;
  *comm = new Comm{clique, name, rank};
  return Result::inProgress;
}

HADAL_EXPORT Result ncclCommGetAsyncError(Comm* comm, Result* error) {
  std::lock_guard lock(mutex);
  const Clique& clique = *comm->clique;
  *error = clique.errors[static_cast<size_t>(comm->rank)];
  if (*error == Result::success && clique.joinedCount < clique.ranks) *error = Result::inProgress;
  return Result::success;
}

HADAL_EXPORT Result ncclCommDestroy(Comm* comm) {
  leave(comm);
  return Result::success;
}

HADAL_EXPORT Result ncclCommAbort(Comm* comm) {
  leave(comm);
  pending.clear();
  return Result::success;
}

HADAL_EXPORT const char* ncclGetErrorString(Result result) {
  switch (result) {
    case Result::remoteError:
      return "a remote process exited or there was a network error";
    case Result::invalidArgument:
      return "an invalid argument";
    case Result::invalidUsage:
      return "an invalid usage";
    default:
      return "an unknown result code";
  }
}

HADAL_EXPORT Result ncclAllReduce(const void* send, void* receive, size_t count, DataType type, RedOp op, Comm* comm,
                                  Stream stream) {
  return postTo(comm, stream, {Kind::allReduce, send, receive, count, type, op, 0, nullptr});
}

HADAL_EXPORT Result ncclReduceScatter(const void* send, void* receive, size_t count, DataType type, RedOp op,
                                      Comm* comm, Stream stream) {
  return postTo(comm, stream, {Kind::reduceScatter, send, receive, count, type, op, 0, nullptr});
}

HADAL_EXPORT Result ncclAllGather(const void* send, void* receive, size_t count, DataType type, Comm* comm,
                                  Stream stream) {
  return postTo(comm, stream, {Kind::allGather, send, receive, count, type, RedOp::sum, 0, nullptr});
}

HADAL_EXPORT Result ncclBroadcast(const void* send, void* receive, size_t count, DataType type, int root, Comm* comm,
                                  Stream stream) {
  if (root < 0 || root >= comm->clique->ranks) return Result::invalidArgument;
  return postTo(comm, stream, {Kind::broadcast, send, receive, count, type, RedOp::sum, root, nullptr});
}

HADAL_EXPORT Result ncclSend(const void* data, size_t count, DataType type, int peer, Comm* comm, Stream stream) {
  return exchangeWith(comm, stream, peer, true, {data, nullptr, count * bytesOf(type), nullptr});
}

HADAL_EXPORT Result ncclRecv(void* data, size_t count, DataType type, int peer, Comm* comm, Stream stream) {
  return exchangeWith(comm, stream, peer, false, {nullptr, data, count * bytesOf(type), nullptr});
}

// Without a stream no call here waits, so that those of a group need not be held together.
HADAL_EXPORT Result ncclGroupStart() {
  groupDepth++;
  return Result::success;
}
HADAL_EXPORT Result ncclGroupEnd() { return --groupDepth > 0 ? Result::success : putGroupOnStream(); }

// How calls are put on streams. NCCL has no such function.
HADAL_EXPORT void hadalNcclSetEnqueue(void (*put)(Stream stream, void (*function)(void* data), void* data)) {
  putOnStream = put;
}

HADAL_EXPORT StreamState cuStreamQuery(Stream) {
  std::lock_guard lock(mutex);
  while (!pending.empty() && *pending.back()) pending.pop_back();
  return pending.empty() ? StreamState::done : StreamState::notReady;
}
