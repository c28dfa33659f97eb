#include "sim/record.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "sim/memory.h"
#include "sim/replay/call.h"
#include "sim/runtime.h"

namespace hadal {
namespace cuda {

struct Recording::Call : sim::RecordedCall {
  std::vector<char*> addresses;  // of buffers
  const Fault* faultAddress = nullptr;
  cudaStream_t stream = nullptr;
  bool isSeen = false;
};

namespace {

constexpr int64_t mostBytes = 64 << 20;
constexpr int mostAlike = 8;

const char* path() {
  static const char* const file = [] {
    const char* text = std::getenv("HADAL_SIM_RECORD");
    return text && *text ? text : nullptr;
  }();
  return file;
}

bool isWanted(const KernelEntry& kernel, const void* params) {
  static const auto isCollective = [](const std::string& name) {
    for (const char* other : {"all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast-from"})
      if (name == other) return true;
    return false;
  };
  static std::mutex mutex;
  static auto& seen = *new std::map<std::string, int>;
  if (isCollective(kernel.contract->name)) return false;
  const std::string key = kernel.contract->name + std::string(1, '\0') +
                          std::string(static_cast<const char*>(params), kernel.contract->paramsBytes);
  std::lock_guard lock(mutex);
  return seen[key]++ < mostAlike;
}

// Buffers may be one memory, but may not overlap in part.
bool noteBuffers(sim::RecordedCall& call, std::vector<char*>& addresses, const BufferList& list, void* const* buffers) {
  int64_t total = 0;
  for (int i = 0; i < list.count; i++) {
    sim::RecordedBuffer b;
    auto* const address = static_cast<char*>(buffers[i]);
    b.bytes = list.items[i].bytes;
    b.access = list.items[i].access;
    b.isPresent = address != nullptr;
    b.isPinned = address && sim::placeOf(address, 0).side == sim::Side::pinned;
    for (int j = 0; j < i && address; j++) {
      if (!addresses[j] || b.bytes == 0 || call.buffers[j].bytes == 0) continue;
      if (addresses[j] == address && call.buffers[j].bytes == b.bytes) {
        b.sameAs = call.buffers[j].sameAs >= 0 ? call.buffers[j].sameAs : j;
        break;
      }
      if (address < addresses[j] + call.buffers[j].bytes && addresses[j] < address + b.bytes) return false;
    }
    addresses.push_back(address);
    total += b.bytes;
    call.buffers.push_back(std::move(b));
  }
  return total <= mostBytes;
}

void writeDown(const sim::RecordedCall& call) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  static FILE* const file = std::fopen((std::string(path()) + "." + std::to_string(getpid())).c_str(), "ab");
  if (!file) return;
  call.write(file);
  std::fflush(file);
}

}  // namespace

Recording::Recording(const KernelEntry& kernel, const void* params, void* const* buffers, const RunContext& context) {
  if (!path() || context.predicate || !isWanted(kernel, params)) return;
  auto call = std::make_shared<Call>();
  call->stream = static_cast<cudaStream_t>(context.stream);
  cudaStreamCaptureStatus status;
  if (cudaStreamIsCapturing(call->stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone) return;
  call->kernel = kernel.contract->name;
  call->params.assign(static_cast<const char*>(params),
                      static_cast<const char*>(params) + kernel.contract->paramsBytes);
  if (!noteBuffers(*call, call->addresses, kernel.contract->buffers(params), buffers)) return;
  call->workspaceBytes = context.workspaceBytes;
  call->processors = context.processors;
  call->faultAddress = context.fault;
  const auto look = [](void* data) {
    const std::unique_ptr<std::shared_ptr<Call>> held(static_cast<std::shared_ptr<Call>*>(data));
    Call& c = **held;
    for (size_t i = 0; i < c.buffers.size(); i++)
      if (c.addresses[i]) c.buffers[i].before.assign(c.addresses[i], c.addresses[i] + c.buffers[i].bytes);
    c.isSeen = !c.faultAddress->isRaised;
  };
  cudaLaunchHostFunc(call->stream, look, new std::shared_ptr<Call>(call));
  call_ = std::move(call);
}

Recording::~Recording() {
  if (!call_) return;
  const auto look = [](void* data) {
    const std::unique_ptr<std::shared_ptr<Call>> held(static_cast<std::shared_ptr<Call>*>(data));
    Call& c = **held;
    if (!c.isSeen) return;
    for (size_t i = 0; i < c.buffers.size(); i++)
      if (c.addresses[i] && c.buffers[i].access != Access::in)
        c.buffers[i].after.assign(c.addresses[i], c.addresses[i] + c.buffers[i].bytes);
    c.raisesFault = c.faultAddress->isRaised;
    writeDown(c);
  };
  cudaLaunchHostFunc(call_->stream, look, new std::shared_ptr<Call>(call_));
}

}  // namespace cuda
}  // namespace hadal
