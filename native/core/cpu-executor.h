// Runs tasks, one after the other, on a thread of its own that enters OpenMP; the other queues have a thread each.
#pragma once
#include <array>
#include <atomic>
#include <mutex>
#include <unordered_map>

#include "core/executor.h"
#include "core/task-thread.h"

namespace hadal {

class CpuExecutor final : public Executor {
 public:
  // With `processors`, at least as many, thread i of a kernel is bound to the i-th.
  CpuExecutor(int threads, std::vector<int> processors);
  ~CpuExecutor() override;

  int threads() const override { return threads_; }
  Program::FindKernel backend() const override;
  std::shared_ptr<Storage> allocate(int64_t bytes, bool isHost) override;
  DeviceMemory memory() const override;
  void post(std::function<void()> task) override { compute_.post(std::move(task)); }
  StepResult run(const std::vector<ScheduleEntry>& schedule, const std::shared_ptr<Storage>& arena,
                 bool profile) override;
  std::string read(const Storage& block, int64_t offset, void* to, int64_t bytes) override;
  std::string write(const Storage& block, int64_t offset, const void* from, int64_t bytes) override;
  // An instruction that writes a block waits until its copy is made.
  void snapshot(const std::vector<BlockCopy>& copies, std::function<void(std::string)> done) override;
  void prepare(std::vector<Memory> blocks, std::function<void()> done) override;
  void setGroup(MeshAxis axis, std::shared_ptr<ProcessGroup> group) override;
  void shutdown() override;

 private:
  // Waits until no copy reads the block any more.
  void awaitCopyOf(const Storage& block);
  // Lets collectives that are under way fail with this reason; from any thread.
  void abortGroups(const std::string& reason);
  void runEntry(const ScheduleEntry& entry, void* arena, bool profile, StepResult& result);
  void awaitCopiesOfWritten(const ScheduleEntry& entry, const Instruction& instruction);
  std::string runInstruction(const ScheduleEntry& entry, const Instruction& instruction, void* arena);

  int threads_;
  std::mutex groupsMutex_;  // held where they change, and where another thread than the compute thread asks for them
  std::array<std::shared_ptr<ProcessGroup>, meshAxes> groups_;
  std::atomic<bool> cancelled_{false};
  TaskThread communication_, copy_;
  TaskThread snapshot_;  // not copy_: what a step waits for does not queue behind a second's worth of copies
  // Which task of snapshot_ copies a block; used by the compute thread alone.
  std::unordered_map<const Storage*, uint64_t> copying_;
  uint64_t lastCopy_ = 0;
  TaskThread compute_;
};

}  // namespace hadal
