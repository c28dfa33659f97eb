// An OS thread's part of the host executor: runs one block at a time, its threads as fibers.
#pragma once
#include <atomic>
#include <cstdarg>
#include <string>
#include <vector>

#include "sim/executor.h"
#include "sim/fiber.h"
#include "sim/sanitizers.h"

namespace hadal {
namespace sim {

inline constexpr int warpLanes = 32, maxThreads = 1024, maxWarps = maxThreads / warpLanes;

enum class Operation : uint8_t {
  none,
  barrier,
  syncWarp,
  shuffle,
  shuffleUp,
  shuffleDown,
  shuffleXor,
  ballot,
  matchAny,
  reduce,
  loadMatrices,
  multiplyAdd
};

enum class Phase : uint8_t { unstarted, active, finished };

// A copy from global to shared memory under way.
struct Copy {
  unsigned char* shared;
  const unsigned char* global;
  int bytes;
  bool isWanted;
  int group;
};

struct Thread {
  void* place = nullptr;  // where it goes on, once it has left its stack
  const Stack* stack = nullptr;
  Phase phase = Phase::unstarted;
  Operation waitsAt = Operation::none;
  uint32_t mask = 0;
  int variant = 0;  // of the operation: how many matrices, which reduction
  Site site;
  void* operands = nullptr;  // of the operation, on the thread's stack
  std::vector<Copy> copies;
  int group = 0;
  std::vector<void*> fencedBy;  // atomics since its last fence
  bool hasFenced = false;
};

// What launches are counted by, where a log is wanted.
struct MatrixLoads {
  int64_t count = 0, matrices = 0, wavefronts = 0;
  int worst = 0;  // wavefronts of a matrix
};

struct Random {
  uint64_t state = 0;
  uint32_t below(uint32_t count) {
    state += 0x9e3779b97f4a7c15;
    uint64_t x = state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return static_cast<uint32_t>(((x >> 32) * count) >> 32);
  }
};

class Worker {
 public:
  Worker();
  // False: the block could not end, and report() says why.
  bool runBlock(const Launch& launch, Index block, Order order, uint64_t seed, bool counts);
  const std::string& report() const { return report_; }
  void endLaunch();

  // ---- For the operations
  Thread& self() { return threads_[current_]; }
  Thread& thread(int i) { return threads_[i]; }
  int current() const { return current_; }
  int lane() const { return current_ % warpLanes; }
  int firstOfWarp() const { return current_ - lane(); }
  int threadCount() const { return launch_->threads; }
  int barrier(Vote vote, bool value, Site site);
  // Waits for the mask's lanes at the operation. The last to come calls complete(first thread of the warp, mask), which
  // reads and writes the operands of all.
  template <class Complete>
  void meet(Operation operation, int variant, uint32_t mask, void* operands, Site site, Complete&& complete) {
    if (!arrive(operation, variant, mask, operands, site)) return suspend();
    complete(firstOfWarp(), mask);
    if (operation == Operation::syncWarp && hasThreadSanitizer()) threadOrder_.meet(firstOfWarp(), mask, current_);
    release(mask);
  }
  [[noreturn]] void fail(std::string text);
  // Does the executor's own work with memory for the thread.
  template <class F>
  void aside(F&& f) {
    if (hasThreadSanitizer()) threadOrder_.goHome();
    f();
    if (hasThreadSanitizer()) threadOrder_.resumeThread(current_);
  }
  void goAside() {
    if (hasThreadSanitizer()) threadOrder_.goHome();
  }
  // The thread, where it is, for a message.
  std::string describe(Site site) const;

  bool counts = false;
  MatrixLoads loads;

 private:
  static void runThreads();

  bool arrive(Operation operation, int variant, uint32_t mask, void* operands, Site site);
  void release(uint32_t mask);
  void suspend();
  int pick();
  void begin(int thread);
  void leave(void** place, int next);
  void switchTo(void** from, void* to, const Stack* stack, bool isLast);
  [[noreturn]] void goHome();
  void setReady(int warp, uint32_t mask) {
    ready_[warp] |= mask;
    readyWarps_ |= 1u << warp;
  }
  std::string deadlock() const;
  std::string heading() const;
  void prepareShared(size_t bytes);

  StackPool stacks_{runThreads};
  std::vector<Thread> threads_;
  const Launch* launch_ = nullptr;
  Order order_ = Order::forward;
  Random random_;
  int current_ = 0, running_ = 0, finished_ = 0, arrived_ = 0;
  // Of threads that can run or have not begun.
  uint32_t ready_[maxWarps] = {}, readyWarps_ = 0;
  uint32_t atWarp_[maxWarps] = {};  // wait at an operation of their warp
  Site barrierSite_;
  bool barrierDiffers_ = false;
  Vote vote_ = Vote::none;
  int votes_ = 0, result_ = 0;
  void* home_ = nullptr;
  Stack homeStack_;  // as AddressSanitizer knows it
  ThreadOrder threadOrder_;
  bool isFailed_ = false;
  std::string report_;
  unsigned char* sharedEnd_ = nullptr;  // before a page that may not be touched
  unsigned char* exact_ = nullptr;
  size_t exactBytes_ = 0;
};

// The OS thread's.
extern thread_local constinit Worker* worker __attribute__((tls_model("initial-exec")));

std::string format(const char* text, ...) __attribute__((format(printf, 1, 2)));
std::string formatList(const char* text, va_list list);

}  // namespace sim
}  // namespace hadal
