#include "sim/sanitizers.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

namespace hadal {
namespace sim {

bool ThreadOrder::beginBlock(int threads) {
  const auto most = static_cast<size_t>(std::max(mostThreads, 2 * threads));
  const bool isOrdered = used_ > 0 && used_ + threads > most;
  if (isOrdered) endLaunch();
  home_ = __tsan_get_current_fiber();
  first_ = used_;
  used_ += static_cast<size_t>(threads);
  if (fibers_.size() < used_) fibers_.resize(used_, nullptr);
  return isOrdered;
}

void ThreadOrder::endLaunch() {
  __tsan_acquire(end_);
  for (void* memory : memories_) std::free(memory);
  memories_.clear();
  used_ = 0;
}

void ThreadOrder::beginThread(int thread) {
  void*& fiber = fibers_[first_ + thread];
  if (!fiber) {
    goHome();  // a fiber comes after what made it
    fiber = __tsan_create_fiber(0);
  }
  resumeThread(thread);
  __tsan_acquire(begin_);
}

void ThreadOrder::endThread() {
  __tsan_release(end_);
  goHome();
}

template <class ForThreads>
void ThreadOrder::order(ForThreads&& forThreads, int current) {
  goHome();
  void* const mark = std::malloc(16);
  forThreads([&](int t) {
    resumeThread(t);
    __tsan_release(mark);
  });
  forThreads([&](int t) {
    resumeThread(t);
    __tsan_acquire(mark);
  });
  goHome();
  std::free(mark);
  resumeThread(current);
}

void ThreadOrder::meet(int first, uint32_t lanes, int current) {
  order(
      [&](auto&& visit) {
        for (uint32_t rest = lanes; rest; rest &= rest - 1) visit(first + std::countr_zero(rest));
      },
      current);
}

void ThreadOrder::meetAll(int threads, int current) {
  order(
      [&](auto&& visit) {
        for (int t = 0; t < threads; t++) visit(t);
      },
      current);
}

unsigned char* ThreadOrder::sharedMemory(size_t bytes) {
  void* const memory = aligned_alloc(128, (bytes + 127) / 128 * 128);
  memories_.push_back(memory);
  return static_cast<unsigned char*>(memory);
}

}  // namespace sim
}  // namespace hadal
