#include "cuda/executor.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cuda/failure.h"
#include "record.h"

namespace hadal {
namespace cuda {

namespace {

// Of which copies between the host's memory and the device go through two halves, so that one fills while the other
// travels. A PCIe link moves as much in half a millisecond.
constexpr int64_t stagingBytes = int64_t{16} << 20;
// Steps whose inputs and graph are kept: the programs of a training run, of its evaluation, and the lengths of a generation.
constexpr size_t keptSteps = 32;

bool isSet(const char* variable, bool unless) {
  const char* value = std::getenv(variable);
  return value && *value ? std::string_view(value) != "0" : unless;
}

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

std::vector<const void*> placesOf(const Bindings& bindings) {
  std::vector<const void*> places;
  for (const auto& slot : bindings.slots) places.push_back(slot->data());
  return places;
}

}  // namespace

struct CudaExecutor::Step {
  // Of the inputs, their places on the device. Its slots are there while it runs, so that what was disposed of is freed.
  std::vector<ScheduleEntry> schedule;
  std::vector<std::vector<const void*>> slots;  // where they lie, of each entry
  std::vector<const void*> constants;           // of each entry
  void* arena;
  std::vector<size_t> firstInstruction;  // of each entry, counted over the schedule
  int64_t inputBytes = 0;
  std::shared_ptr<Storage> inputs, staging;       // on the device, and pinned
  std::vector<std::vector<bool>> isInputWritten;  // by entry and input
  int runs = 0;
  cudaGraphExec_t graph = nullptr;
  std::array<WireBytes, meshAxes> wireBytes;  // that the graph sends, by axis
  bool isReplayed = false;                    // the graph was launched before

  Step() = default;
  Step(const Step&) = delete;
  ~Step() {
    if (graph) cudaGraphExecDestroy(graph);
  }
  bool is(const std::vector<ScheduleEntry>& other, const void* otherArena) const {
    if (arena != otherArena || schedule.size() != other.size()) return false;
    for (size_t e = 0; e < schedule.size(); e++) {
      if (schedule[e].program != other[e].program || slots[e] != placesOf(other[e].bindings)) return false;
      const auto sameSize = [](const Memory& a, const Memory& b) { return a.bytes == b.bytes; };
      const auto &ours = schedule[e].bindings.inputs, &theirs = other[e].bindings.inputs;
      if (!std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end(), sameSize)) return false;
    }
    return true;
  }
  char* inputAt(size_t entry, size_t input) const {
    return static_cast<char*>(schedule[entry].bindings.inputs[input].data);
  }
  char* stagedAt(size_t entry, size_t input) const {
    return static_cast<char*>(staging->data()) + (inputAt(entry, input) - static_cast<char*>(inputs->data()));
  }
};

CudaExecutor::CudaExecutor(int device)
    : device_(device), usesGraphs_(isSet("HADAL_CUDA_GRAPHS", true)), awaitsEach_(isSet("HADAL_CUDA_SYNC", false)) {
  int count = 0;
  must(cudaGetDeviceCount(&count), "find a GPU");
  if (device < 0 || device >= count)
    throw std::runtime_error("[device] expected a GPU from 0 to " + std::to_string(count - 1) + ", got " +
                             std::to_string(device));
  must(cudaSetDevice(device), "take the GPU");
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, device), "describe the GPU");
  if (properties.major < 8)
    throw std::runtime_error(std::string("[device] expected a GPU of compute capability 8.0 or later, got ") +
                             properties.name + " (" + std::to_string(properties.major) + "." +
                             std::to_string(properties.minor) + "); train on the CPU");
  processors_ = properties.multiProcessorCount;
  for (cudaStream_t* stream : {&compute_, &communication_, &copies_, &zeros_})
    must(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "make a stream");
  must(cudaMalloc(reinterpret_cast<void**>(&fault_), sizeof(Fault)), "allocate");
  must(cudaHostAlloc(reinterpret_cast<void**>(&faultOnHost_), sizeof(Fault), cudaHostAllocDefault), "pin memory");
  must(cudaHostAlloc(reinterpret_cast<void**>(&staging_), 2 * stagingBytes, cudaHostAllocDefault), "pin memory");
}

CudaExecutor::~CudaExecutor() { shutdown(); }

void CudaExecutor::post(std::function<void()> task) {
  thread_.post([this, task = std::move(task)] {
    cudaSetDevice(device_);
    task();
  });
}

std::shared_ptr<Storage> CudaExecutor::allocate(int64_t bytes, bool isHost) {
  must(cudaSetDevice(device_), "take the GPU");
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 64));
  void* data = nullptr;
  const cudaError_t error = isHost ? cudaHostAlloc(&data, size, cudaHostAllocMapped) : cudaMalloc(&data, size);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it would be reported by the next launch
    const DeviceMemory now = memory();
    throw std::runtime_error("[cuda] expected " + std::to_string(bytes) + " bytes of " +
                             (isHost ? "pinned" : "the GPU's") + " memory, of which " + std::to_string(now.free) +
                             " of " + std::to_string(now.total) + " are free");
  }
  must(error, "allocate");
  // Not on the stream that steps are issued to: it may be captured at this moment by the executor's thread, and the graph
  // would fill the block with zeros whenever it is launched. Waited for, so that steps see zeros.
  const cudaError_t issued = cudaMemsetAsync(data, 0, size, zeros_);
  const cudaError_t filled = issued == cudaSuccess ? cudaStreamSynchronize(zeros_) : issued;
  if (filled != cudaSuccess) isHost ? cudaFreeHost(data) : cudaFree(data);
  must(filled, "fill with zeros");
  const int64_t now = live_.fetch_add(bytes) + bytes;
  int64_t before = peak_.load();
  while (now > before && !peak_.compare_exchange_weak(before, now)) {
  }
  return Storage::adopt(data, bytes, [this, data, bytes, isHost, alive = std::weak_ptr(alive_)] {
    isHost ? cudaFreeHost(data) : cudaFree(data);
    if (alive.lock()) live_ -= bytes;
  });
}

DeviceMemory CudaExecutor::memory() const {
  size_t free = 0, total = 0;
  cudaSetDevice(device_);
  cudaMemGetInfo(&free, &total);
  return {live_, peak_, static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

// ---- Copies

void CudaExecutor::copy(void* to, const void* from, int64_t bytes, bool toHost) {
  struct Half {
    cudaEvent_t done = nullptr;
    int64_t at = -1, bytes = 0;
  };
  std::array<Half, 2> halves;
  const auto finish = [&](size_t h) {
    Half& half = halves[h];
    if (half.at < 0) return;
    must(cudaEventSynchronize(half.done), "copy");
    if (toHost)
      std::memcpy(static_cast<char*>(to) + half.at, staging_ + static_cast<int64_t>(h) * stagingBytes,
                  static_cast<size_t>(half.bytes));
    half.at = -1;
  };
  usedEvents_ = 0;
  for (int64_t at = 0, h = 0; at < bytes; at += stagingBytes, h ^= 1) {
    Half& half = halves[static_cast<size_t>(h)];
    char* staged = staging_ + h * stagingBytes;
    finish(static_cast<size_t>(h));
    if (!half.done) half.done = nextEvent(false);
    half.at = at, half.bytes = std::min(stagingBytes, bytes - at);
    const auto size = static_cast<size_t>(half.bytes);
    // Whatever the direction: offloaded blocks lie in pinned memory.
    if (toHost) {
      must(cudaMemcpyAsync(staged, static_cast<const char*>(from) + at, size, cudaMemcpyDefault, compute_),
           "copy from the GPU");
    } else {
      std::memcpy(staged, static_cast<const char*>(from) + at, size);
      must(cudaMemcpyAsync(static_cast<char*>(to) + at, staged, size, cudaMemcpyDefault, compute_), "copy to the GPU");
    }
    must(cudaEventRecord(half.done, compute_), "record an event");
  }
  for (const size_t h : {0, 1}) finish(h);
}

std::string CudaExecutor::read(const Storage& block, int64_t offset, void* to, int64_t bytes) {
  return messageOf([&] { copy(to, static_cast<const char*>(block.data()) + offset, bytes, true); });
}

std::string CudaExecutor::write(const Storage& block, int64_t offset, const void* from, int64_t bytes) {
  return messageOf([&] { copy(static_cast<char*>(block.data()) + offset, from, bytes, false); });
}

// Steps wait meanwhile: a copy over PCIe takes a fortieth of what writing it to a disk does.
void CudaExecutor::snapshot(const std::vector<BlockCopy>& copies, std::function<void(std::string)> done) {
  done(messageOf([&] {
    for (const BlockCopy& one : copies) copy(one.to, one.from->data(), one.from->bytes(), true);
  }));
}

void CudaExecutor::prepare(std::vector<Memory> blocks, std::function<void()> done) {
  for (const Memory& block : blocks) provideMemory(block.data, block.bytes);
  done();
}

// ---- Steps

const void* CudaExecutor::constantsOf(const std::shared_ptr<const Program>& program) {
  const auto& constants = program->constants();
  if (constants.empty()) return nullptr;
  Constants& known = constants_[program.get()];
  if (known.program.lock() != program) {
    const auto block = allocate(static_cast<int64_t>(constants.size()), false);
    copy(block->data(), constants.data(), static_cast<int64_t>(constants.size()), false);
    known = {program, block};
  }
  return known.copy->data();
}

CudaExecutor::Step& CudaExecutor::stepFor(const std::vector<ScheduleEntry>& schedule, void* arena) {
  const auto found =
      std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) { return step.is(schedule, arena); });
  if (found != steps_.end()) {
    steps_.splice(steps_.begin(), steps_, found);
    return steps_.front();
  }
  while (steps_.size() >= keptSteps) steps_.pop_back();
  std::erase_if(constants_, [](const auto& one) { return one.second.program.expired(); });
  std::list<Step> made;  // it becomes one of ours when it is whole: there may be no memory for it
  Step& step = made.emplace_front();
  step.schedule = schedule;
  step.arena = arena;
  size_t instructions = 0;
  for (const ScheduleEntry& entry : schedule) {
    step.slots.push_back(placesOf(entry.bindings));
    step.constants.push_back(constantsOf(entry.program));
    step.firstInstruction.push_back(instructions);
    instructions += entry.program->instructions().size();
    for (const Memory& input : entry.bindings.inputs) step.inputBytes += aligned(input.bytes);
    std::vector<bool> isWritten(entry.bindings.inputs.size());
    for (const Instruction& instruction : entry.program->instructions()) {
      const BufferList list = instruction.kernel->contract->buffers(instruction.params);
      for (uint32_t b = 0; b < instruction.bufferCount; b++) {
        const BufferRef& ref = entry.program->buffers(instruction)[b];
        if (ref.space == Space::input && list.items[b].access != Access::in)
          isWritten[static_cast<size_t>(ref.index)] = true;
      }
    }
    step.isInputWritten.push_back(std::move(isWritten));
  }
  step.inputs = allocate(step.inputBytes, false);
  step.staging = allocate(step.inputBytes, true);
  auto* at = static_cast<char*>(step.inputs->data());
  for (ScheduleEntry& entry : step.schedule)
    for (Memory& input : entry.bindings.inputs) {
      input.data = at;
      at += aligned(input.bytes);
    }
  steps_.splice(steps_.begin(), made);
  return step;
}

// Collectives of groups that work on the host's side must run between launches.
bool CudaExecutor::isCapturable() const {
  return usesGraphs_ && !awaitsEach_ && std::all_of(groups_.begin(), groups_.end(), [](const auto& group) {
           return !group || group->worksOnStreams();
         });
}

StepResult CudaExecutor::run(const std::vector<ScheduleEntry>& schedule, const std::shared_ptr<Storage>& arena,
                             bool profile) {
  StepResult result;
  Step* current = nullptr;
  usedEvents_ = usedTimingEvents_ = 0;
  spans_.clear();  // of a step that failed
  result.error = messageOf(
      [&] {
        Step& step = stepFor(schedule, arena->data());
        current = &step;
        for (size_t e = 0; e < schedule.size(); e++) step.schedule[e].bindings.slots = schedule[e].bindings.slots;
        for (size_t e = 0; e < schedule.size(); e++)
          for (size_t i = 0; i < schedule[e].bindings.inputs.size(); i++) {
            const Memory& input = schedule[e].bindings.inputs[i];
            if (input.bytes > 0) std::memcpy(step.stagedAt(e, i), input.data, static_cast<size_t>(input.bytes));
          }
        // The first run is not captured: libraries and drivers set themselves up in it.
        if (!profile && !step.graph && step.runs > 0 && isCapturable()) capture(step);
        step.runs++;
        if (!profile && step.graph && isCapturable()) {
          enterGroups(step);
          must(cudaGraphLaunch(step.graph, compute_), "launch a graph");
        } else {
          usedEvents_ = 0;
          issue(step, result, true, profile);
        }
        await(compute_);
        if (result.cancelled || !result.error.empty()) return;
        if (faultOnHost_->isRaised) return explainFault(step, result);
        addTimes(result);
        for (size_t e = 0; e < schedule.size(); e++)
          for (size_t i = 0; i < schedule[e].bindings.inputs.size(); i++)
            if (step.isInputWritten[e][i])
              copy(schedule[e].bindings.inputs[i].data, step.inputAt(e, i), schedule[e].bindings.inputs[i].bytes, true);
      },
      result.error);
  if (current)
    for (ScheduleEntry& entry : current->schedule) entry.bindings.slots.clear();
  // In any case: what groups were about is over.
  const std::string failure = messageOf([&] {
    for (const auto& group : groups_)
      if (group) group->settle();
  });
  if (result.error.empty()) result.error = failure;
  if (cancelled_) result.cancelled = true;
  return result;
}

void CudaExecutor::capture(Step& step) {
  usedEvents_ = 0;
  must(cudaStreamBeginCapture(compute_, cudaStreamCaptureModeThreadLocal), "capture a graph");
  StepResult result;
  const std::array<WireBytes, meshAxes> before = wireBytes();
  std::string error = messageOf([&] { issue(step, result, false, false); }, result.error);
  step.wireBytes = wireBytes();
  for (size_t axis = 0; axis < meshAxes; axis++) {
    step.wireBytes[axis].sent -= before[axis].sent;
    step.wireBytes[axis].received -= before[axis].received;
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(compute_, &graph);
  if (error.empty() && ended == cudaSuccess) {
    const cudaError_t made = cudaGraphInstantiate(&step.graph, graph, 0);
    cudaGraphDestroy(graph);
    return must(made, "make a graph");
  }
  if (graph) cudaGraphDestroy(graph);
  if (!error.empty()) throw std::runtime_error(error);
  must(ended, "capture a graph");
}

void CudaExecutor::issue(const Step& step, StepResult& result, bool isTimed, bool profile) {
  must(cudaMemsetAsync(fault_, 0, sizeof(Fault), compute_), "fill with zeros");
  if (step.inputBytes > 0)
    must(cudaMemcpyAsync(step.inputs->data(), step.staging->data(), static_cast<size_t>(step.inputBytes),
                         cudaMemcpyHostToDevice, compute_),
         "copy to the GPU");
  for (size_t e = 0; e < step.schedule.size() && result.error.empty() && !result.cancelled; e++)
    issueEntry(step, e, result, isTimed, profile);
  must(cudaMemcpyAsync(faultOnHost_, fault_, sizeof(Fault), cudaMemcpyDeviceToHost, compute_), "copy from the GPU");
}

void CudaExecutor::issueEntry(const Step& step, size_t e, StepResult& result, bool isTimed, bool profile) {
  const ScheduleEntry& entry = step.schedule[e];
  const auto& instructions = entry.program->instructions();
  const size_t firstTime = result.instructionMs.size();
  if (profile) result.instructionMs.resize(firstTime + instructions.size());
  std::vector<cudaEvent_t> done(instructions.size());  // of those on other streams that nobody waited for yet
  const auto record = [&](cudaStream_t stream, bool timed) {
    const cudaEvent_t event = nextEvent(timed);
    must(cudaEventRecord(event, stream), "record an event");
    return event;
  };
  const auto join = [&](size_t at) {
    if (!done[at]) return;
    const bool isExposed = isTimed && instructions[at].queue == QueueId::communication;
    const cudaEvent_t begin = isExposed ? record(compute_, true) : nullptr;
    must(cudaStreamWaitEvent(compute_, done[at], 0), "wait for an event");
    if (isExposed) spans_.push_back({begin, record(compute_, true), Span::exposed, 0});
    done[at] = nullptr;
  };
  for (size_t i = 0; i < instructions.size(); i++) {
    if (cancelled_) {
      result.cancelled = true;
      break;
    }
    const Instruction& instruction = instructions[i];
    for (uint32_t w = 0; w < instruction.waitCount; w++) join(entry.program->waits(instruction)[w]);
    const cudaStream_t stream = streamOf(instruction.queue);
    const bool isAside = instruction.queue != QueueId::compute;
    if (isAside) must(cudaStreamWaitEvent(stream, record(compute_, false), 0), "wait for an event");
    const auto resolve = [&](const BufferRef& ref) {
      return entry.program->resolve(ref, entry.bindings, step.arena, step.constants[e]);
    };
    void* buffers[BufferList::maxBuffers];
    for (uint32_t b = 0; b < instruction.bufferCount; b++) buffers[b] = resolve(entry.program->buffers(instruction)[b]);
    RunContext context;
    context.threads = context.processors = processors_;
    context.workspaceBytes = instruction.workspaceBytes;
    if (instruction.workspaceBytes) context.workspace = static_cast<char*>(step.arena) + instruction.workspaceOffset;
    for (size_t axis = 0; axis < groups_.size(); axis++) context.groups[axis] = groups_[axis].get();
    context.stream = stream;
    if (instruction.predicated) context.predicate = static_cast<const int32_t*>(resolve(instruction.predicate));
    context.fault = fault_;
    context.instruction = static_cast<int32_t>(step.firstInstruction[e] + i);
    const bool isCommunication = instruction.queue == QueueId::communication;
    const bool hasSpan = isTimed && (profile || instruction.isTimed || isCommunication);
    const cudaEvent_t begin = hasSpan ? record(stream, true) : nullptr;
    try {
      const Recording recording(*instruction.kernel, instruction.params, buffers, context);
      instruction.kernel->run(instruction.params, buffers, context);
      if (context.failed) throw std::runtime_error(context.message);
      if (awaitsEach_) await(stream);
    } catch (const std::runtime_error& error) {  // CommError, too
      result.error = error.what();
      result.failedEntry = static_cast<int64_t>(e);
      result.failedInstruction = static_cast<int64_t>(i);
      break;
    }
    if (hasSpan) {
      const cudaEvent_t end = record(stream, true);
      if (profile) spans_.push_back({begin, end, Span::instruction, firstTime + i});
      if (instruction.isTimed) spans_.push_back({begin, end, Span::timed, 0});
      if (isCommunication) spans_.push_back({begin, end, Span::communication, 0});
    }
    if (isAside) done[i] = record(stream, false);
  }
  // Nothing may still work on the arena when the next entry begins.
  for (size_t i = 0; i < done.size(); i++) join(i);
}

// Where processes compute together, one that is gone must not let the others wait for good.
void CudaExecutor::await(cudaStream_t stream) {
  const bool isAlone = std::none_of(groups_.begin(), groups_.end(), [](const auto& group) { return group; });
  if (isAlone) return must(cudaStreamSynchronize(stream), "run a step");
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state != cudaErrorNotReady) return must(state, "run a step");
    cudaGetLastError();  // that it is not ready would be reported by the next launch
    for (const auto& group : groups_)
      if (group) group->check();
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

void CudaExecutor::explainFault(const Step& step, StepResult& result) const {
  const auto at = static_cast<size_t>(faultOnHost_->instruction);
  size_t e = step.firstInstruction.size() - 1;
  while (step.firstInstruction[e] > at) e--;
  const Instruction& instruction = step.schedule[e].program->instructions()[at - step.firstInstruction[e]];
  RunContext context;
  if (instruction.kernel->explain) instruction.kernel->explain(instruction.params, *faultOnHost_, context);
  result.error = context.failed ? context.message : "[cuda] a kernel refused its data";
  result.failedEntry = static_cast<int64_t>(e);
  result.failedInstruction = static_cast<int64_t>(at - step.firstInstruction[e]);
}

cudaEvent_t CudaExecutor::nextEvent(bool isTimed) {
  auto& events = isTimed ? timingEvents_ : events_;
  size_t& used = isTimed ? usedTimingEvents_ : usedEvents_;
  if (used == events.size()) {
    cudaEvent_t event;
    must(cudaEventCreateWithFlags(&event, isTimed ? cudaEventDefault : cudaEventDisableTiming), "make an event");
    events.push_back(event);
  }
  return events[used++];
}

void CudaExecutor::addTimes(StepResult& result) {
  for (const Span& span : spans_) {
    float ms = 0;
    must(cudaEventElapsedTime(&ms, span.begin, span.end), "take a time");
    if (span.kind == Span::communication) result.communicationMs += ms;
    if (span.kind == Span::exposed) result.exposedMs += ms;
    if (span.kind == Span::timed) result.timedMs += ms;
    if (span.kind == Span::instruction) result.instructionMs[span.at] = ms;
  }
  spans_.clear();
}

cudaStream_t CudaExecutor::streamOf(QueueId queue) const {
  return queue == QueueId::compute ? compute_ : queue == QueueId::communication ? communication_ : copies_;
}

// ---- Groups and the end

void CudaExecutor::setGroup(MeshAxis axis, std::shared_ptr<ProcessGroup> group) {
  std::lock_guard lock(groupsMutex_);
  groups_[static_cast<size_t>(axis)] = std::move(group);
  steps_.clear();  // graphs hold the old one's communicator
}

std::array<WireBytes, meshAxes> CudaExecutor::wireBytes() const {
  std::array<WireBytes, meshAxes> bytes;
  for (size_t axis = 0; axis < meshAxes; axis++)
    if (groups_[axis]) bytes[axis] = groups_[axis]->wireBytes();
  return bytes;
}

// The groups that the graph calls; the first time, those calls have counted their bytes themselves.
void CudaExecutor::enterGroups(Step& step) {
  for (size_t axis = 0; axis < meshAxes; axis++) {
    const WireBytes bytes = step.wireBytes[axis];
    if (groups_[axis] && bytes.sent + bytes.received > 0) groups_[axis]->enter(step.isReplayed ? bytes : WireBytes{});
  }
  step.isReplayed = true;
}

void CudaExecutor::abortGroups(const std::string& reason) {
  std::lock_guard lock(groupsMutex_);
  for (const auto& group : groups_)
    if (group) group->abort(reason);
}

void CudaExecutor::shutdown() {
  if (isShutDown_) return;
  isShutDown_ = true;
  cancelled_ = true;
  abortGroups("[comm] the device was shut down");  // a collective under way may wait for others for minutes
  thread_.stop();
  cudaSetDevice(device_);
  cudaStreamSynchronize(compute_);
  steps_.clear();
  constants_.clear();
  alive_.reset();
  for (const auto* events : {&events_, &timingEvents_})
    for (const cudaEvent_t event : *events) cudaEventDestroy(event);
  for (const cudaStream_t stream : {compute_, communication_, copies_, zeros_}) cudaStreamDestroy(stream);
  cudaFree(fault_);
  cudaFreeHost(faultOnHost_);
  cudaFreeHost(staging_);
}

}  // namespace cuda
}  // namespace hadal
