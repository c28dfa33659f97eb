// What the host executor tells a sanitizer, where the process has one. The executor itself is never instrumented: kernels
// are, and these functions say to what their memory and their order in time amount.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/fiber.h"

extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* save, const void** oldBottom, size_t* oldBytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* memory, size_t bytes);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* mark);
__attribute__((weak)) void __tsan_release(void* mark);
__attribute__((weak)) void __tsan_read_range(void* memory, long bytes);  // as GCC knows them
__attribute__((weak)) void __tsan_write_range(void* memory, long bytes);
}

namespace hadal {
namespace sim {

inline bool hasAddressSanitizer() { return __asan_unpoison_memory_region != nullptr; }
inline bool hasThreadSanitizer() { return __tsan_create_fiber != nullptr; }

inline void readsMemory(const void* memory, size_t bytes) {
  if (hasThreadSanitizer()) __tsan_read_range(const_cast<void*>(memory), static_cast<long>(bytes));
}
inline void writesMemory(void* memory, size_t bytes) {
  if (hasThreadSanitizer()) __tsan_write_range(memory, static_cast<long>(bytes));
}

// How ThreadSanitizer sees a grid. Each CUDA thread is a fiber of its own, and none is used again, nor its stack, nor the
// shared memory of its block, before all threads so far are ordered before what follows: ThreadSanitizer would take the
// uses for one thread's. With many threads that is done between blocks, too, and conflicts between blocks before
// and after stay unseen. What orders threads is only what orders them on a GPU: barriers, __syncwarp, launches.
class ThreadOrder {
 public:
  static constexpr unsigned withoutOrder = 1;  // of __tsan_switch_to_fiber
  // What orders threads costs as much as there are. At least two blocks are told apart.
  static constexpr int mostThreads = 1024;

  // Returns whether everything before has become ordered, and what it used may be used again.
  bool beginBlock(int threads);
  // Orders what the caller did before all threads that begin from now on.
  void leaveHome() { __tsan_release(begin_); }
  // Orders what was done from home before the block's threads.
  void openBlock() { __tsan_release(begin_); }
  // Orders all before what the caller does next.
  void endLaunch();
  void beginThread(int thread);
  void endThread();
  void resumeThread(int thread) { __tsan_switch_to_fiber(fibers_[first_ + thread], withoutOrder); }
  // Whatever the executor itself does with memory is done from home: ThreadSanitizer sees its calls of the C library.
  void goHome() { __tsan_switch_to_fiber(home_, withoutOrder); }
  // Orders what each of the threads did before what each does next. `first` is a thread of the block.
  void meet(int first, uint32_t lanes, int current);
  void meetAll(int threads, int current);
  // A block's shared memory, which no other block of these threads has had.
  unsigned char* sharedMemory(size_t bytes);

 private:
  template <class ForThreads>
  void order(ForThreads&& forThreads, int current);

  std::vector<void*> fibers_;
  size_t first_ = 0, used_ = 0;
  std::vector<void*> memories_;
  void* home_ = nullptr;
  // Addresses that stand for moments: all threads come after the one, and before the other.
  char* const begin_ = new char[16];
  char* const end_ = new char[16];
};

}  // namespace sim
}  // namespace hadal
