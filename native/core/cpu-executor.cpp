#include "core/cpu-executor.h"

#include <omp.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "core/affinity.h"
#include "core/registry.h"

namespace hadal {

namespace {

const bool isToldHowToWait = std::getenv("OMP_WAIT_POLICY") != nullptr;  // as this library is loaded

// Between two kernels libgomp's threads spin, for milliseconds, unless OMP_WAIT_POLICY said `passive` when it was
// loaded. The loader says so, but not from a worker thread, whose process.env is a copy. Where libgomp has more threads
// than there are processors they give way at once, so a team that sleeps for good serves as well. Without it a loaded
// machine generated a hundred times more slowly in a worker.
void giveWayBetweenKernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (isToldHowToWait) return;
    std::thread([] {
      std::atomic<int> members{0};  // an empty region would be left out
#pragma omp parallel num_threads(omp_get_num_procs() + 1)
      members++;
      for (;;) pause();  // the team lives as long as the thread that made it
    }).detach();
  });
}

// Memory that lies in a file is held by steps alone, for as long as they need it.
std::string afterTransfer(void* at, int64_t bytes) {
  const int error = releasePages(at, bytes);
  if (!error) return {};
  return std::string("[device] expected to write the file of offloaded tensors, got: ") + std::strerror(error);
}

}  // namespace

CpuExecutor::CpuExecutor(int threads, std::vector<int> processors)
    : threads_(threads),
      // Made by the compute thread, whose binding they would share.
      communication_([processors] { allowProcessors(processors); }),
      copy_([processors] { allowProcessors(processors); }),
      snapshot_([processors] { allowProcessors(processors); }),
      compute_([threads, processors] {
        giveWayBetweenKernels();
        omp_set_dynamic(0);
        omp_set_num_threads(threads);
        // The team is whole before the first of them is bound: threads begin with their maker's binding.
        if (processors.empty()) return;
#pragma omp parallel num_threads(threads)
        allowProcessors({processors[omp_get_thread_num()]});
      }) {
}

CpuExecutor::~CpuExecutor() { shutdown(); }

void CpuExecutor::setGroup(MeshAxis axis, std::shared_ptr<ProcessGroup> group) {
  std::lock_guard lock(groupsMutex_);
  groups_[static_cast<size_t>(axis)] = std::move(group);
}

void CpuExecutor::abortGroups(const std::string& reason) {
  std::lock_guard lock(groupsMutex_);
  for (const auto& group : groups_)
    if (group) group->abort(reason);
}

void CpuExecutor::shutdown() {
  cancelled_ = true;
  abortGroups("[comm] the device was shut down");  // a collective under way may wait for others for minutes
  communication_.stop();
  copy_.stop();
  snapshot_.stop();
  compute_.stop();
}

void CpuExecutor::snapshot(const std::vector<BlockCopy>& copies, std::function<void(std::string)> done) {
  for (const BlockCopy& copy : copies)
    copying_[copy.from.get()] = snapshot_.post([copy] {
      if (copy.from->bytes() > 0) std::memcpy(copy.to, copy.from->data(), static_cast<size_t>(copy.from->bytes()));
      releasePages(copy.from->data(), copy.from->bytes());
    });
  lastCopy_ = snapshot_.post([done = std::move(done)] { done({}); });
}

void CpuExecutor::prepare(std::vector<Memory> blocks, std::function<void()> done) {
  snapshot_.post([blocks = std::move(blocks), done = std::move(done)] {
    for (const Memory& block : blocks) provideMemory(block.data, block.bytes);
    done();
  });
}

void CpuExecutor::awaitCopyOf(const Storage& block) {
  const auto found = copying_.find(&block);
  if (found == copying_.end()) return;
  snapshot_.waitFor(found->second);
  copying_.erase(found);
}

void CpuExecutor::awaitCopiesOfWritten(const ScheduleEntry& entry, const Instruction& instruction) {
  if (copying_.empty()) return;
  const BufferList list = instruction.kernel->contract->buffers(instruction.params);
  for (uint32_t i = 0; i < instruction.bufferCount; i++) {
    const BufferRef& ref = entry.program->buffers(instruction)[i];
    if (ref.space == Space::slot && list.items[i].access != Access::in)
      awaitCopyOf(*entry.bindings.slots[static_cast<size_t>(ref.index)]);
  }
}

Program::FindKernel CpuExecutor::backend() const { return &findKernel; }

std::shared_ptr<Storage> CpuExecutor::allocate(int64_t bytes, bool) {
  auto block = Storage::allocate(bytes);
  if (!block) throw std::runtime_error("[native] out of memory allocating " + std::to_string(bytes) + " bytes");
  return block;
}

DeviceMemory CpuExecutor::memory() const {
  const StorageBytes inUse = Storage::inUse();
  return {inUse.live, inUse.peak, 0, 0};
}

std::string CpuExecutor::read(const Storage& block, int64_t offset, void* to, int64_t bytes) {
  char* at = static_cast<char*>(block.data()) + offset;
  std::memcpy(to, at, static_cast<size_t>(bytes));
  return afterTransfer(at, bytes);
}

std::string CpuExecutor::write(const Storage& block, int64_t offset, const void* from, int64_t bytes) {
  awaitCopyOf(block);
  char* at = static_cast<char*>(block.data()) + offset;
  std::memcpy(at, from, static_cast<size_t>(bytes));
  return afterTransfer(at, bytes);
}

StepResult CpuExecutor::run(const std::vector<ScheduleEntry>& schedule, const std::shared_ptr<Storage>& memory,
                            bool profile) {
  void* const arena = memory->data();
  StepResult result;
  if (!copying_.empty() && snapshot_.isDone(lastCopy_)) copying_.clear();
  for (size_t i = 0; i < schedule.size() && result.error.empty() && !result.cancelled; i++) {
    runEntry(schedule[i], arena, profile, result);
    if (!result.error.empty()) result.failedEntry = static_cast<int64_t>(i);
  }
  return result;
}

void CpuExecutor::runEntry(const ScheduleEntry& entry, void* arena, bool profile, StepResult& result) {
  using Clock = std::chrono::steady_clock;
  const auto& instructions = entry.program->instructions();
  struct Started {
    TaskThread* queue = nullptr;
    uint64_t task = 0;
  };
  std::vector<Started> started(instructions.size());
  std::mutex errorMutex;
  const auto note = [&](std::string error, size_t at) {
    if (error.empty()) return;
    std::lock_guard lock(errorMutex);
    if (!result.error.empty()) return;
    result.error = std::move(error);
    result.failedInstruction = static_cast<int64_t>(at);
  };
  const auto failed = [&] {
    std::lock_guard lock(errorMutex);
    return !result.error.empty();
  };
  const size_t firstTime = result.instructionMs.size();
  double communicationMs = 0;  // written by the communication thread alone
  const auto sinceMs = [](Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  };
  // What compute waits for an instruction on another queue is that one's time.
  const auto await = [&](size_t at) {
    if (!started[at].queue) return;
    const auto begin = Clock::now();
    started[at].queue->waitFor(started[at].task);
    const double waitedMs = sinceMs(begin);
    if (instructions[at].queue == QueueId::communication) result.exposedMs += waitedMs;
    if (profile) result.instructionMs[firstTime + at] += waitedMs;
  };
  for (size_t i = 0; i < instructions.size() && !failed(); i++) {
    if (cancelled_) {
      result.cancelled = true;
      break;
    }
    const Instruction& instruction = instructions[i];
    for (uint32_t w = 0; w < instruction.waitCount; w++) await(entry.program->waits(instruction)[w]);
    if (failed()) break;  // what it waited for is not there
    if (instruction.queue != QueueId::compute) {
      awaitCopiesOfWritten(entry, instruction);
      TaskThread& queue = instruction.queue == QueueId::copy ? copy_ : communication_;
      started[i] = {&queue, queue.post([&, i] {
                      if (failed()) return;  // others of the group will not take part either
                      const auto begin = Clock::now();
                      note(runInstruction(entry, instructions[i], arena), i);
                      if (instructions[i].queue == QueueId::communication) communicationMs += sinceMs(begin);
                    })};
      if (profile) result.instructionMs.push_back(0);
      continue;
    }
    const auto begin = Clock::now();
    awaitCopiesOfWritten(entry, instruction);
    note(runInstruction(entry, instruction, arena), i);
    if (instruction.isTimed) result.timedMs += sinceMs(begin);
    if (profile) result.instructionMs.push_back(sinceMs(begin));
  }
  // Nothing may still work on the arena when the step is over.
  for (size_t i = 0; i < started.size(); i++) await(i);
  result.communicationMs += communicationMs;
}

std::string CpuExecutor::runInstruction(const ScheduleEntry& entry, const Instruction& instruction, void* arena) {
  const Program& program = *entry.program;
  if (instruction.predicated) {
    const auto* flag = static_cast<const int32_t*>(program.resolve(instruction.predicate, entry.bindings, arena));
    if (*flag == 0) return {};
  }
  void* buffers[BufferList::maxBuffers];
  for (uint32_t i = 0; i < instruction.bufferCount; i++)
    buffers[i] = program.resolve(program.buffers(instruction)[i], entry.bindings, arena);
  RunContext context;
  context.threads = instruction.queue == QueueId::compute ? threads_ : 1;
  context.workspaceBytes = instruction.workspaceBytes;
  if (instruction.workspaceBytes) context.workspace = static_cast<char*>(arena) + instruction.workspaceOffset;
  for (size_t axis = 0; axis < groups_.size(); axis++) context.groups[axis] = groups_[axis].get();
  try {
    instruction.kernel->run(instruction.params, buffers, context);
  } catch (const CommError& error) {
    return error.what();
  }
  return context.failed ? std::string(context.message) : std::string();
}

}  // namespace hadal
