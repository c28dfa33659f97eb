// One thread that runs what it is handed, in order.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace hadal {

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

}  // namespace hadal
