// Processes that compute together, as a kernel sees them: collectives that return when they are done. Backends are in
// native/comm/; kernels of the communication queue call them, so that each runs beside the computation.
#pragma once
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/dtype.h"

namespace hadal {

// Axes of the device mesh, each of which has a group of its own; numbers shared with src/core/mesh.ts.
enum class MeshAxis : int64_t { dp = 0, tp = 1, pp = 2, ep = 3 };
inline constexpr int64_t meshAxes = 4;

enum class ReduceOp : int64_t { sum = 0, min = 1, max = 2 };

// into[i] = into[i] ∘ from[i]
using Reducer = void (*)(void* into, const void* from, int64_t count);

// A collective that failed. The message begins with "[comm]" and names the ranks at fault where they are known; the group
// is of no use any more.
struct CommError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct WireBytes {
  int64_t sent = 0, received = 0;
};

// Puts a call of the host on a stream of a GPU (cudaLaunchHostFunc).
using StreamCaller = void (*)(void* stream, void (*function)(void* data), void* data);

// Every member calls the same functions in the same order with the same sizes, from one thread at a time. All but abort() and
// wireBytes() block until this rank's part is done, and throw CommError. `count` counts numbers, `bytes` bytes.
class ProcessGroup {
 public:
  virtual ~ProcessGroup();
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data: `count` numbers, in place. All ranks get the same bits. `reduce` joins numbers of `dtype` as `op` says.
  virtual void allReduce(void* data, int64_t count, DType dtype, ReduceOp op, Reducer reduce) = 0;
  // in: size() · count numbers, undefined afterwards; out: the `count` numbers at rank() · count, reduced.
  virtual void reduceScatter(void* in, void* out, int64_t count, DType dtype, ReduceOp op, Reducer reduce) = 0;
  // in: bytes; out: size() · bytes, in the order of ranks. `in` may be out + rank() · bytes.
  virtual void allGather(const void* in, void* out, int64_t bytes) = 0;
  // in: size() · bytes, a part for each rank; out: size() · bytes, a part of each rank.
  virtual void allToAll(const void* in, void* out, int64_t bytes) = 0;
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  virtual void send(const void* data, int64_t bytes, int to) = 0;
  virtual void receive(void* data, int64_t bytes, int from) = 0;
  virtual void barrier() = 0;

  // Whether collectives can be put on a GPU's stream: they return at once then, work on its memory, and may be captured in a
  // graph.
  virtual bool worksOnStreams() const { return false; }
  // The calls that follow go onto this stream; null: they block, as ever. `caller` is for who stands in for a GPU's library.
  virtual void useStream(void* /*stream*/, StreamCaller /*caller*/) {}
  // A graph with calls of this group is about to be launched: what it sends. Calls that are put on a stream tell themselves.
  virtual void enter(WireBytes /*replayed*/) {}
  // While what was put on a stream is waited for: throws CommError where another rank is gone, or time is over.
  virtual void check() {}
  // All that was put on streams has been waited for. Throws CommError where it failed.
  virtual void settle() {}

  // From any thread: what is under way and what follows throws CommError with this reason.
  virtual void abort(const std::string& reason) = 0;
  // What went over the wire so far, headers and all; from any thread.
  virtual WireBytes wireBytes() const = 0;
};

// By MeshAxis; null where a device has no such axis.
using ProcessGroups = std::array<ProcessGroup*, meshAxes>;

}  // namespace hadal
