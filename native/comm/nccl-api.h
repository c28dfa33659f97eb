// The part of NCCL's C interface that is used, so that no header of it is
// needed to build. Compared with nccl.h of NCCL 2.32 by static assertions when
// it was written; all of it is there since 2.14.
#pragma once
#include <climits>
#include <cstddef>
#include <cstdint>

namespace hadal::nccl {

struct Comm;  // ncclComm
using Stream = void*;

struct UniqueId {
  char internal[128];
};

enum class Result : int {
  success = 0,
  unhandledCudaError = 1,
  systemError = 2,
  internalError = 3,
  invalidArgument = 4,
  invalidUsage = 5,
  remoteError = 6,
  inProgress = 7
};

enum class DataType : int { int8 = 0, uint8 = 1, int32 = 2, float16 = 6, float32 = 7, bfloat16 = 9 };

enum class RedOp : int { sum = 0, max = 2, min = 3 };

// ncclConfig_t as of version 2.14; later ones take it for what its version and
// size say.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
  int undefined = INT_MIN;  // where later versions have another field
};

// name in here, name in the library, result, parameters
#define HADAL_NCCL_FUNCTIONS(X)                                                                                   \
  X(getVersion, ncclGetVersion, Result, (int* version))                                                           \
  X(getUniqueId, ncclGetUniqueId, Result, (UniqueId * id))                                                        \
  X(commInitRankConfig, ncclCommInitRankConfig, Result,                                                           \
    (Comm * *comm, int ranks, UniqueId id, int rank, Config* config))                                             \
  X(commDestroy, ncclCommDestroy, Result, (Comm * comm))                                                          \
  X(commAbort, ncclCommAbort, Result, (Comm * comm))                                                              \
  X(commGetAsyncError, ncclCommGetAsyncError, Result, (Comm * comm, Result * error))                              \
  X(getErrorString, ncclGetErrorString, const char*, (Result result))                                             \
  X(allReduce, ncclAllReduce, Result,                                                                             \
    (const void* send, void* receive, size_t count, DataType type, RedOp op, Comm* comm, Stream stream))          \
  X(reduceScatter, ncclReduceScatter, Result,                                                                     \
    (const void* send, void* receive, size_t count, DataType type, RedOp op, Comm* comm, Stream stream))          \
  X(allGather, ncclAllGather, Result,                                                                             \
    (const void* send, void* receive, size_t count, DataType type, Comm* comm, Stream stream))                    \
  X(broadcast, ncclBroadcast, Result,                                                                             \
    (const void* send, void* receive, size_t count, DataType type, int root, Comm* comm, Stream stream))          \
  X(send, ncclSend, Result, (const void* data, size_t count, DataType type, int peer, Comm* comm, Stream stream)) \
  X(receive, ncclRecv, Result, (void* data, size_t count, DataType type, int peer, Comm* comm, Stream stream))    \
  X(groupStart, ncclGroupStart, Result, ())                                                                       \
  X(groupEnd, ncclGroupEnd, Result, ())

// CUDA's driver says whether what was put on a stream is done.
enum class StreamState : int { done = 0, notReady = 600 };

struct Api {
#define HADAL_DECLARE(name, symbol, result, parameters) result(*name) parameters = nullptr;
  HADAL_NCCL_FUNCTIONS(HADAL_DECLARE)
#undef HADAL_DECLARE
  StreamState (*streamQuery)(Stream stream) = nullptr;  // cuStreamQuery
  // Of CUDA's driver: what makes a GPU the calling thread's (cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain, cuCtxSetCurrent).
  int (*initDriver)(unsigned flags) = nullptr;
  int (*getDevice)(int* device, int ordinal) = nullptr;
  int (*retainContext)(void** context, int device) = nullptr;
  int (*setContext)(void* context) = nullptr;
  // hadalNcclSetEnqueue, which only the stand-in has: how it puts calls on streams.
  void (*setCaller)(void (*caller)(Stream stream, void (*function)(void* data), void* data)) = nullptr;
};

}  // namespace hadal::nccl
