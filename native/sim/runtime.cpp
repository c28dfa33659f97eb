#include "sim/runtime.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sim/memory.h"
#include "sim/stream.h"

using namespace hadal::sim;

namespace {

// A moment of a stream that others may wait for.
struct Mark {
  CUstream_st* stream;
  bool isDone = false;
  double ms = 0;
};

struct Item {
  std::function<void()> run;
  std::shared_ptr<Mark> wait = nullptr;  // of another stream
  std::shared_ptr<Mark> mark = nullptr;  // reached with this item
};

struct Node {
  std::function<void()> run;
  std::vector<int> after;
};

}  // namespace

struct Graph {
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  std::vector<Node> nodes;
  std::vector<CUstream_st*> streams;  // that take part in the capture
  bool isInvalid = false;
};
struct CUgraph_st {
  std::shared_ptr<Graph> graph;
};
struct CUgraphExec_st {
  std::shared_ptr<Graph> graph;
};

struct CUstream_st {
  int device;
  bool isBlocking;
  std::deque<Item> queue;
  bool isBusy = false;  // an item of it is being run
  std::shared_ptr<Graph> capture;
  std::vector<int> tail;  // of the capture: what the next node comes after
};

struct CUevent_st {
  bool isTimed;
  std::shared_ptr<Mark> mark;
  std::shared_ptr<Graph> capture;
  std::vector<int> tail;
};

namespace {

std::mutex mutex;
std::condition_variable changed;
std::atomic<cudaError_t> launchError{cudaSuccess};  // until a synchronisation has told it
thread_local cudaError_t lastError = cudaSuccess;

// Devices that are alike: ranks of one process have one each, and wait for their own alone.
constexpr int deviceCount = 4;
thread_local int current = 0;
bool isDevice(int device) { return device >= 0 && device < deviceCount; }

CUstream_st& defaultStream() {
  static auto& stream = *new CUstream_st{.device = 0, .isBlocking = true, .queue = {}, .capture = {}, .tail = {}};
  return stream;
}
std::vector<CUstream_st*>& streams() {
  static auto& all = *new std::vector<CUstream_st*>{&defaultStream()};
  return all;
}
std::vector<std::shared_ptr<Graph>>& captures() {
  static auto& all = *new std::vector<std::shared_ptr<Graph>>;
  return all;
}

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) lastError = error;
  return error;
}
cudaError_t refuse(cudaError_t error, const std::string& why) {
  setReport(("[cuda-sim] " + why).c_str());
  return note(error);
}

double nowMs() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

CUstream_st* streamOf(cudaStream_t stream) { return stream ? stream : &defaultStream(); }
bool isStream(CUstream_st* stream) { return std::find(streams().begin(), streams().end(), stream) != streams().end(); }

// Runs what the stream holds, up to the mark or all of it.
void drain(std::unique_lock<std::mutex>& lock, CUstream_st* stream, const Mark* until) {
  while (until ? !until->isDone : stream->isBusy || !stream->queue.empty()) {
    if (stream->isBusy) {
      changed.wait(lock);
      continue;
    }
    if (stream->queue.empty()) return;
    Item item = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->isBusy = true;
    if (item.wait && !item.wait->isDone) drain(lock, item.wait->stream, item.wait.get());
    if (item.run) {
      lock.unlock();
      item.run();
      lock.lock();
    }
    if (item.mark) {
      item.mark->ms = nowMs();
      item.mark->isDone = true;
    }
    stream->isBusy = false;
    changed.notify_all();
  }
}

std::shared_ptr<Mark> markOf(CUstream_st* stream) {
  auto mark = std::make_shared<Mark>(Mark{stream});
  stream->queue.push_back({.run = {}, .mark = mark});
  return mark;
}

// The default stream and the others wait for each other, save those that say they do not.
void put(CUstream_st* stream, Item item) {
  const auto awaitOther = [&](CUstream_st* other) {
    if (other != stream && !other->capture && (other->isBusy || !other->queue.empty()))
      stream->queue.push_back({.run = {}, .wait = markOf(other)});
  };
  if (stream == &defaultStream()) {
    for (CUstream_st* other : streams())
      if (other->isBlocking) awaitOther(other);
  } else if (stream->isBlocking) {
    awaitOther(&defaultStream());
  }
  stream->queue.push_back(std::move(item));
}

// Work for the stream, or a node where it is captured.
cudaError_t add(CUstream_st* stream, std::function<void()> run) {
  if (!stream->capture) {
    if (stream == &defaultStream() &&
        std::any_of(captures().begin(), captures().end(), [](auto& g) { return g->origin->isBlocking; }))
      return refuse(cudaErrorStreamCaptureUnsupported, "the default stream is used while a stream is captured");
    put(stream, {.run = std::move(run)});
    return cudaSuccess;
  }
  Graph& graph = *stream->capture;
  if (graph.isInvalid) return note(cudaErrorStreamCaptureInvalidated);
  graph.nodes.push_back({std::move(run), stream->tail});
  stream->tail = {static_cast<int>(graph.nodes.size()) - 1};
  return cudaSuccess;
}

cudaError_t told() { return note(launchError.exchange(cudaSuccess)); }

// What waits for a stream that is captured spoils the capture.
bool spoils(CUstream_st* stream) {
  if (!stream->capture) return false;
  stream->capture->isInvalid = true;
  refuse(cudaErrorStreamCaptureUnsupported, "a stream that is captured cannot be waited for or asked");
  return true;
}

void drainAll(std::unique_lock<std::mutex>& lock, int device) {
  std::vector<CUstream_st*> all = streams();
  std::erase_if(all, [&](const CUstream_st* stream) { return stream->device != device; });
  if (order() == Order::reverse) std::reverse(all.begin(), all.end());
  if (order() == Order::random)
    for (size_t i = all.size(); i > 1; i--) std::swap(all[i - 1], all[draw(static_cast<uint32_t>(i))]);
  for (CUstream_st* stream : all)
    if (isStream(stream)) drain(lock, stream, nullptr);
}

// Nodes in an order that their edges allow, another one for each order of threads.
void replay(const Graph& graph) {
  const size_t count = graph.nodes.size();
  std::vector<int> missing(count);
  std::vector<std::vector<int>> next(count);
  std::vector<int> ready;
  for (size_t i = 0; i < count; i++) {
    missing[i] = static_cast<int>(graph.nodes[i].after.size());
    for (int before : graph.nodes[i].after) next[before].push_back(static_cast<int>(i));
    if (missing[i] == 0) ready.push_back(static_cast<int>(i));
  }
  while (!ready.empty()) {
    const auto chosen = order() == Order::forward   ? std::min_element(ready.begin(), ready.end())
                        : order() == Order::reverse ? std::max_element(ready.begin(), ready.end())
                                                    : ready.begin() + draw(static_cast<uint32_t>(ready.size()));
    const int node = *chosen;
    ready.erase(chosen);
    graph.nodes[node].run();
    for (int after : next[node])
      if (--missing[after] == 0) ready.push_back(after);
  }
}

void runLaunch(const QueuedLaunch& q) {
  if (launchError != cudaSuccess) return;
  const auto fails = [&](const std::string& why) {
    setReport(("[cuda-sim] " + why + "\n  kernel: " + q.name).c_str());
    launchError = cudaErrorLaunchFailure;
  };
  if (!q.gate.fault) return fails("a launch without a place for faults");
  for (int i = 0; i < q.argumentCount; i++) {
    if (!q.isPointer[i]) continue;
    void* pointer;
    std::memcpy(&pointer, q.arguments[i], sizeof(pointer));
    if (pointer && placeOf(pointer, 0).side == Side::pageable)
      return fails("argument " + std::to_string(i) +
                   " points to memory that is neither the device's nor pinned (argument 1 is the first of the body)");
  }
  if (placeOf(q.gate.fault, sizeof(hadal::Fault)).side == Side::pageable)
    return fails("the place for faults is not the device's memory");
  if (q.gate.predicate && placeOf(q.gate.predicate, 4).side == Side::pageable)
    return fails("the predicate is not in the device's memory");
  const Launch launch{q.name, q.grid, q.threads, q.gate, q.run, q.arguments, q.argumentBytes, q.argumentCount};
  if (!execute(launch)) launchError = cudaErrorLaunchFailure;
}

}  // namespace

namespace hadal {
namespace sim {

bool refusesWhileCapturing() {
  std::lock_guard lock(mutex);
  return std::any_of(captures().begin(), captures().end(), [](auto& graph) {
    return graph->mode != cudaStreamCaptureModeRelaxed && graph->origin->device == current;
  });
}

int currentDevice() { return current; }

cudaError_t synchronize(int device) {
  std::unique_lock lock(mutex);
  for (CUstream_st* stream : streams())
    if (stream->device == device && spoils(stream)) return cudaErrorStreamCaptureUnsupported;
  drainAll(lock, device);
  return told();
}

const char* enqueue(void* stream, std::shared_ptr<QueuedLaunch> launch) {
  const LaunchGrid& g = launch->grid;
  // sm_80 gives a block 163 KiB at most; on sm_86 it is 99, which the log notes.
  if (launch->threads < 1 || launch->threads > 1024 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535 ||
      g.sharedBytes > 163 * 1024)
    return cudaGetErrorString(note(cudaErrorInvalidValue));
  std::lock_guard lock(mutex);
  CUstream_st* const s = streamOf(static_cast<cudaStream_t>(stream));
  if (!isStream(s)) return cudaGetErrorString(note(cudaErrorInvalidResourceHandle));
  const cudaError_t error = add(s, [launch] { runLaunch(*launch); });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sim
}  // namespace hadal

// ---- Device

cudaError_t cudaGetDeviceCount(int* count) {
  *count = deviceCount;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (!isDevice(device)) return note(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!isDevice(device)) return note(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "cuda-sim");
  size_t free;
  cudaMemGetInfo(&free, &properties->totalGlobalMem);
  properties->sharedMemPerBlock = 48 * 1024;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024, properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff, properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->totalConstMem = 65536;
  properties->major = 8;
  properties->minor = 0;
  properties->multiProcessorCount = 4;
  properties->concurrentKernels = 1;
  properties->asyncEngineCount = 2;
  properties->unifiedAddressing = 1;
  properties->memoryBusWidth = 5120;
  properties->l2CacheSize = 40 << 20;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerMultiprocessor = 164 * 1024;
  properties->regsPerMultiprocessor = 65536;
  properties->sharedMemPerBlockOptin = 163 * 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return note(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
  if (!isDevice(device)) return note(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<size_t>(bytes), "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return synchronize(current); }
cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

// ---- Errors

cudaError_t cudaGetLastError() {
  const cudaError_t error = lastError;
  lastError = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return lastError; }

namespace {
struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorText errorTexts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work in other streams"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
};
}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  for (const auto& e : errorTexts)
    if (e.error == error) return e.name;
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  for (const auto& e : errorTexts)
    if (e.error == error) return e.text;
  return "unknown error";
}

// ---- Copies

namespace {

const char* sideName(Side side) {
  return side == Side::device ? "device" : side == Side::pinned ? "pinned host" : "pageable host";
}

// The kind must say where the memory really is: a host pointer given for the device's is found here.
cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, CUstream_st* stream, bool awaits) {
  if (bytes == 0) return cudaSuccess;
  const Place target = placeOf(to, bytes), source = placeOf(from, bytes);
  if (!target.fits || !source.fits)
    return refuse(cudaErrorInvalidValue, "a copy of " + std::to_string(bytes) + " bytes leaves its allocation");
  const bool toDevice = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool fromDevice = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault &&
      (toDevice != (target.side == Side::device) || fromDevice != (source.side == Side::device)))
    return refuse(cudaErrorInvalidValue, std::string("a copy from ") + sideName(source.side) + " to " +
                                             sideName(target.side) + " memory that is called kind " +
                                             std::to_string(kind));
  std::unique_lock lock(mutex);
  if (!isStream(stream)) return note(cudaErrorInvalidResourceHandle);
  const bool isPageable = source.side == Side::pageable || target.side == Side::pageable;
  if (stream->capture && (isPageable || awaits)) {
    stream->capture->isInvalid = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "a copy of pageable memory in a stream that is captured");
  }
  std::function<void()> run = [=] {
    if (launchError == cudaSuccess) std::memmove(to, from, bytes);
  };
  if (source.side == Side::pageable) {  // goes through a buffer of the driver's, filled before the call returns
    auto staged =
        std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    run = [=] {
      if (launchError == cudaSuccess) std::memcpy(to, staged->data(), bytes);
    };
  }
  if (const cudaError_t error = add(stream, std::move(run))) return error;
  if (!awaits && target.side != Side::pageable) return cudaSuccess;
  drain(lock, stream, nullptr);
  return told();
}

cudaError_t fill(void* memory, int value, size_t bytes, CUstream_st* stream) {
  if (bytes == 0) return cudaSuccess;
  const Place target = placeOf(memory, bytes);
  if (target.side == Side::pageable || !target.fits)
    return refuse(cudaErrorInvalidValue, "a fill of memory that is not the device's");
  std::unique_lock lock(mutex);
  if (!isStream(stream)) return note(cudaErrorInvalidResourceHandle);
  return add(stream, [=] {
    if (launchError == cudaSuccess) std::memset(memory, value, bytes);
  });
}

}  // namespace

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return copy(to, from, bytes, kind, &defaultStream(), true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(to, from, bytes, kind, streamOf(stream), false);
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) { return fill(memory, value, bytes, &defaultStream()); }
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return fill(memory, value, bytes, streamOf(stream));
}

// ---- Streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  std::lock_guard lock(mutex);
  *stream = new CUstream_st{
      .device = current, .isBlocking = !(flags & cudaStreamNonBlocking), .queue = {}, .capture = {}, .tail = {}};
  streams().push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::unique_lock lock(mutex);
  if (!stream || !isStream(stream)) return note(cudaErrorInvalidResourceHandle);
  drain(lock, stream, nullptr);
  streams().erase(std::find(streams().begin(), streams().end(), stream));
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::unique_lock lock(mutex);
  CUstream_st* const s = streamOf(stream);
  if (!isStream(s)) return note(cudaErrorInvalidResourceHandle);
  if (spoils(s)) return cudaErrorStreamCaptureUnsupported;
  drain(lock, s, nullptr);
  return told();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::unique_lock lock(mutex);
  CUstream_st* const s = streamOf(stream);
  if (!isStream(s) || !event) return note(cudaErrorInvalidResourceHandle);
  if (event->capture) {
    if (event->capture->isInvalid) return note(cudaErrorStreamCaptureInvalidated);
    if (s->capture && s->capture != event->capture)
      return refuse(cudaErrorStreamCaptureIsolation, "two captures cannot wait for each other");
    if (!s->capture) {
      s->capture = event->capture;
      s->tail.clear();
      s->capture->streams.push_back(s);
    }
    for (int node : event->tail)
      if (std::find(s->tail.begin(), s->tail.end(), node) == s->tail.end()) s->tail.push_back(node);
    return cudaSuccess;
  }
  if (!event->mark) return cudaSuccess;  // never recorded
  if (s->capture) {
    s->capture->isInvalid = true;
    return refuse(cudaErrorStreamCaptureIsolation, "a stream that is captured waits for an event from outside");
  }
  put(s, {.run = {}, .wait = event->mark});
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  std::unique_lock lock(mutex);
  CUstream_st* const s = streamOf(stream);
  if (!isStream(s)) return note(cudaErrorInvalidResourceHandle);
  return add(s, [=] { function(data); });
}

// ---- Events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st{.isTimed = !(flags & cudaEventDisableTiming), .mark = {}, .capture = {}, .tail = {}};
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (!event) return note(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::unique_lock lock(mutex);
  CUstream_st* const s = streamOf(stream);
  if (!isStream(s) || !event) return note(cudaErrorInvalidResourceHandle);
  event->capture = s->capture;
  event->mark = nullptr;
  if (s->capture) {
    if (s->capture->isInvalid) return note(cudaErrorStreamCaptureInvalidated);
    event->tail = s->tail;
    return cudaSuccess;
  }
  event->mark = std::make_shared<Mark>(Mark{s});
  put(s, {.run = {}, .mark = event->mark});
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::unique_lock lock(mutex);
  if (!event) return note(cudaErrorInvalidResourceHandle);
  if (event->capture && std::find(captures().begin(), captures().end(), event->capture) != captures().end()) {
    event->capture->isInvalid = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "an event of a capture cannot be waited for");
  }
  const auto mark = event->mark;
  if (mark && !mark->isDone) drain(lock, mark->stream, mark.get());
  return told();
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  std::unique_lock lock(mutex);
  if (!start || !end || !start->isTimed || !end->isTimed || !start->mark || !end->mark)
    return note(cudaErrorInvalidResourceHandle);
  if (!start->mark->isDone || !end->mark->isDone) return cudaErrorNotReady;
  *ms = static_cast<float>(end->mark->ms - start->mark->ms);
  return cudaSuccess;
}

// ---- Graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  std::unique_lock lock(mutex);
  if (!stream) return refuse(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
  if (!isStream(stream)) return note(cudaErrorInvalidResourceHandle);
  if (stream->capture) return note(cudaErrorStreamCaptureInvalidated);
  stream->capture = std::make_shared<Graph>(Graph{stream, mode, {}, {stream}});
  stream->tail.clear();
  captures().push_back(stream->capture);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::unique_lock lock(mutex);
  *graph = nullptr;
  if (!stream || !isStream(stream) || !stream->capture || stream->capture->origin != stream)
    return note(cudaErrorStreamCaptureUnmatched);
  const std::shared_ptr<Graph> captured = stream->capture;
  // Every node must be before the end of the stream that the capture began in.
  std::vector<bool> isBefore(captured->nodes.size());
  for (int node : stream->tail) isBefore[node] = true;
  bool isJoined = true;
  for (size_t i = captured->nodes.size(); i-- > 0;) {
    isJoined = isJoined && isBefore[i];
    for (int before : captured->nodes[i].after) isBefore[before] = true;
  }
  for (CUstream_st* s : captured->streams) {
    if (!isStream(s)) continue;
    s->capture = nullptr;
    s->tail.clear();
  }
  captures().erase(std::find(captures().begin(), captures().end(), captured));
  if (captured->isInvalid) return note(cudaErrorStreamCaptureInvalidated);
  if (!isJoined) return refuse(cudaErrorStreamCaptureUnjoined, "a stream of the capture was not waited for at its end");
  *graph = new CUgraph_st{captured};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  std::unique_lock lock(mutex);
  const CUstream_st* const s = streamOf(stream);
  *status = !s->capture             ? cudaStreamCaptureStatusNone
            : s->capture->isInvalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  if (!graph) return note(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->graph};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  std::unique_lock lock(mutex);
  CUstream_st* const s = streamOf(stream);
  if (!executable) return note(cudaErrorInvalidValue);
  if (!isStream(s)) return note(cudaErrorInvalidResourceHandle);
  return add(s, [graph = executable->graph] { replay(*graph); });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
