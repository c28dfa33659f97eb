#include "core/task-thread.h"

#ifdef __GLIBCXX__
// GCC 12 gave wait() a new version of the same meaning. By the old one, the binary also runs with GCC 11's libstdc++.
__asm__(
    ".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE, "
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif

namespace hadal {

TaskThread::TaskThread(std::function<void()> onStart) : onStart_(std::move(onStart)) {}

TaskThread::~TaskThread() { stop(); }

uint64_t TaskThread::post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (stopping_) return 0;
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
  tasks_.push_back(std::move(task));
  posted_.notify_one();
  return ++postedCount_;
}

void TaskThread::waitFor(uint64_t task) {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [&] { return finishedCount_ >= task || (stopping_ && !running_); });
}

bool TaskThread::isDone(uint64_t task) {
  std::lock_guard lock(mutex_);
  return finishedCount_ >= task;
}

void TaskThread::stop() {
  std::deque<std::function<void()>> dropped;  // destroyed outside the lock
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(tasks_);
    posted_.notify_all();
    finished_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void TaskThread::loop() {
  if (onStart_) onStart_();
  std::unique_lock lock(mutex_);
  for (;;) {
    posted_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
    if (stopping_) return;
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    running_ = true;
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
    running_ = false;
    finishedCount_++;
    finished_.notify_all();
  }
}

}  // namespace hadal
