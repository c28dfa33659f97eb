// Runs tasks, one after the other, on a thread of its own that enters OpenMP; the other queues have a thread each.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

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

struct StepResult {
  bool cancelled = false;
  std::string error;  // empty when the step ended well
  int64_t failedEntry = -1, failedInstruction = -1;
  std::vector<double> instructionMs;  // when profiling, entry after entry
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
  // Ends the step in progress between two instructions and joins all threads. Idempotent.
  void shutdown();

 private:
  void runEntry(const ScheduleEntry& entry, void* arena, bool profile, StepResult& result);
  std::string runInstruction(const ScheduleEntry& entry, const Instruction& instruction, void* arena);

  int threads_;
  std::atomic<bool> cancelled_{false};
  TaskThread communication_, copy_;
  TaskThread compute_;
};

}  // namespace hadal
