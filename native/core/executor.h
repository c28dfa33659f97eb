// Runs tasks, one after the other, on a thread of its own that enters OpenMP; the other queues have a thread each.
#pragma once
#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/process-group.h"
#include "core/program.h"

namespace hadal {

// One thread that runs what it is handed, in order.
class TaskThread {
 public:
  explicit TaskThread(std::function<void()> onStart = {});
  ~TaskThread();
  // Returns the task's number, or 0 when the thread is stopping and takes no more.
  uint64_t post(std::function<void()> task);
  void waitFor(uint64_t task);
  bool isDone(uint64_t task);
  // Drops what has not begun and joins.
  void stop();

 private:
  void loop();
  std::function<void()> onStart_;
  std::mutex mutex_;
  std::condition_variable posted_, finished_;
  std::deque<std::function<void()>> tasks_;
  uint64_t postedCount_ = 0, finishedCount_ = 0;
  bool stopping_ = false, running_ = false;
  std::thread thread_;
};

// A program and what it works on; a step is a list of them.
struct ScheduleEntry {
  std::shared_ptr<const Program> program;
  Bindings bindings;
};

// A block whose contents are wanted as they are now, and where they go: at least as many bytes.
struct BlockCopy {
  std::shared_ptr<Storage> from;
  void* to;
};

struct StepResult {
  bool cancelled = false;
  std::string error;  // empty when the step ended well
  int64_t failedEntry = -1, failedInstruction = -1;
  std::vector<double> instructionMs;  // when profiling, entry after entry
  double communicationMs = 0;         // that the communication queue was busy
  double exposedMs = 0;               // that the computation waited for it
  double timedMs = 0;                 // of the instructions whose time is always wanted
};

class Executor {
 public:
  // With `processors`, at least as many, thread i of a kernel is bound to the i-th.
  Executor(int threads, std::vector<int> processors);
  ~Executor();

  int threads() const { return threads_; }
  // `task` runs on the executor thread.
  void post(std::function<void()> task) { compute_.post(std::move(task)); }
  // To be called on the executor thread.
  StepResult run(const std::vector<ScheduleEntry>& schedule, void* arena, bool profile);
  // Copies blocks as they are now, while later steps go on reading them: an instruction that writes one waits until its
  // copy is made. `done` is called on the copies' own thread after the last. To be called on the executor thread.
  void snapshot(const std::vector<BlockCopy>& copies, std::function<void()> done);
  // Has the system provide memory now that copies will be written to, so that they take a tenth of the time. `done` is
  // called like that of snapshot(); the contents become undefined.
  void prepare(std::vector<Memory> blocks, std::function<void()> done);
  // Waits until no copy reads the block any more. To be called on the executor thread.
  void awaitCopyOf(const Storage& block);
  // Gives an axis of the mesh its group; null takes it away. To be called on the executor thread.
  void setGroup(MeshAxis axis, std::shared_ptr<ProcessGroup> group);
  // Lets collectives that are under way fail with this reason; from any thread.
  void abortGroups(const std::string& reason);
  // Ends the step in progress between two instructions and joins all threads. Idempotent.
  void shutdown();

 private:
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
