#include "sim/worker.h"

#include <sys/mman.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sim/crash.h"

namespace hadal {
namespace sim {

thread_local constinit State state = {};
thread_local constinit Worker* worker = nullptr;

namespace {

constexpr size_t page = 4096;
constexpr size_t sharedRoom = 256 * 1024;
constexpr size_t sharedAlignment = 128;

const char* nameOf(Operation operation) {
  switch (operation) {
    case Operation::none:
      return "nothing";
    case Operation::barrier:
      return "__syncthreads()";
    case Operation::syncWarp:
      return "__syncwarp";
    case Operation::shuffle:
      return "__shfl_sync";
    case Operation::shuffleUp:
      return "__shfl_up_sync";
    case Operation::shuffleDown:
      return "__shfl_down_sync";
    case Operation::shuffleXor:
      return "__shfl_xor_sync";
    case Operation::ballot:
      return "a vote of the warp";
    case Operation::matchAny:
      return "__match_any_sync";
    case Operation::reduce:
      return "__reduce_sync";
    case Operation::loadMatrices:
      return "loadMatrices (ldmatrix)";
    case Operation::multiplyAdd:
      return "multiplyAdd (mma)";
  }
  return "?";
}

std::string siteText(Site site) {
  if (!site.file) return "a place unknown";
  const char* slash = std::strrchr(site.file, '/');
  return format("%s:%d", slash ? slash + 1 : site.file, site.line);
}

bool sameSite(Site a, Site b) { return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file)); }

}  // namespace

std::string formatList(const char* text, va_list list) {
  char buffer[1024];
  std::vsnprintf(buffer, sizeof(buffer), text, list);
  return buffer;
}

std::string format(const char* text, ...) {
  va_list list;
  va_start(list, text);
  std::string result = formatList(text, list);
  va_end(list);
  return result;
}

Worker::Worker() : threads_(maxThreads) {
  auto* memory = static_cast<unsigned char*>(
      mmap(nullptr, sharedRoom + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED) {
    std::perror("[cuda-sim] no memory for a block's shared memory");
    std::abort();
  }
  mprotect(memory + sharedRoom, page, PROT_NONE);
  sharedEnd_ = memory + sharedRoom;
}

// As many bytes as launched: behind them (rounded up to their alignment) lies a page that may not be touched, or
// AddressSanitizer's red zone. All are NaN, in whichever dtype they are read.
void Worker::prepareShared(size_t bytes) {
  if (hasAddressSanitizer()) {
    if (bytes != exactBytes_ || !exact_) {
      std::free(exact_);
      void* memory = nullptr;
      if (posix_memalign(&memory, sharedAlignment, bytes)) std::abort();
      exact_ = static_cast<unsigned char*>(memory);
      exactBytes_ = bytes;
    }
    state.shared = exact_;
  } else if (hasThreadSanitizer()) {
    state.shared = threadOrder_.sharedMemory(bytes);
  } else {
    state.shared = sharedEnd_ - (bytes + sharedAlignment - 1) / sharedAlignment * sharedAlignment;
  }
  state.sharedBytes = bytes;
  std::memset(state.shared, 0xff, bytes);
}

bool Worker::runBlock(const Launch& launch, Index block, Order order, uint64_t seed, bool counting) {
  static thread_local const bool isReady = (catchCrashes(), true);
  (void)isReady;
  launch_ = &launch;
  order_ = order;
  random_.state = seed;
  counts = counting;
  finished_ = arrived_ = 0;
  barrierDiffers_ = false;
  votes_ = 0;
  isFailed_ = false;
  running_ = 0;
  readyWarps_ = 0;
  for (int i = 0; i < launch.threads; i += warpLanes) {
    const int lanes = launch.threads - i < warpLanes ? launch.threads - i : warpLanes;
    ready_[i / warpLanes] = 0;
    setReady(i / warpLanes, lanes == warpLanes ? 0xffffffffu : (1u << lanes) - 1);
    atWarp_[i / warpLanes] = 0;
  }
  for (int i = 0; i < launch.threads; i++) {
    Thread& t = threads_[i];
    t.phase = Phase::unstarted;
    t.waitsAt = Operation::none;
    t.copies.clear();
    t.group = 0;
    t.fencedBy.clear();
    t.hasFenced = false;
  }
  state.thread = {0, 0, 0};
  state.block = block;
  state.blockSize = {static_cast<unsigned>(launch.threads), 1, 1};
  state.gridSize = {launch.grid.x, launch.grid.y, launch.grid.z};
  if (hasThreadSanitizer() && threadOrder_.beginBlock(launch.threads)) stacks_.takeBackAll();
  prepareShared(launch.grid.sharedBytes);
  if (hasThreadSanitizer()) threadOrder_.leaveHome();
  if (hasThreadSanitizer()) threadOrder_.openBlock();
  worker = this;
  leave(&home_, pick());
  worker = nullptr;
  if (hasThreadSanitizer())
    threadOrder_.goHome();
  else if (isFailed_)
    stacks_.takeBackAll();
  return !isFailed_;
}

void Worker::endLaunch() {
  if (!hasThreadSanitizer()) return;
  threadOrder_.endLaunch();
  stacks_.takeBackAll();
}

// Of the threads that can run: a warp goes on until all of its lanes wait, which keeps what it uses in the caches.
int Worker::pick() {
  if (readyWarps_ == 0) return -1;
  int warp, lane;
  if (order_ == Order::forward) {
    warp = std::countr_zero(readyWarps_);
    lane = std::countr_zero(ready_[warp]);
  } else if (order_ == Order::reverse) {
    warp = 31 - std::countl_zero(readyWarps_);
    lane = 31 - std::countl_zero(ready_[warp]);
  } else {
    // A warp in proportion to the lanes of it that can run, and of these any.
    uint32_t total = 0;
    for (uint32_t rest = readyWarps_; rest; rest &= rest - 1) total += std::popcount(ready_[std::countr_zero(rest)]);
    uint32_t drawn = random_.below(total);
    uint32_t rest = readyWarps_;
    for (;; rest &= rest - 1) {
      warp = std::countr_zero(rest);
      const uint32_t lanes = std::popcount(ready_[warp]);
      if (drawn < lanes) break;
      drawn -= lanes;
    }
    uint32_t lanes = ready_[warp];
    for (; drawn > 0; drawn--) lanes &= lanes - 1;
    lane = std::countr_zero(lanes);
  }
  ready_[warp] &= ~(1u << lane);
  if (ready_[warp] == 0) readyWarps_ &= ~(1u << warp);
  return warp * warpLanes + lane;
}

void Worker::begin(int thread) {
  current_ = thread;
  state.thread.x = static_cast<unsigned>(thread);
}

// Leaves this stack for the thread's own, or for a new one where it has not begun.
void Worker::leave(void** place, int next) {
  begin(next);
  Thread& t = threads_[next];
  if (t.phase == Phase::unstarted) {
    t.stack = stacks_.take();
    switchTo(place, t.stack->start, t.stack, false);
  } else {
    if (hasThreadSanitizer()) threadOrder_.resumeThread(next);
    switchTo(place, t.place, t.stack, false);
  }
}

void Worker::switchTo(void** from, void* to, const Stack* stack, bool isLast) {
  void* save = nullptr;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(isLast ? nullptr : &save, stack->low, stack->bytes);
  hadalSimSwitch(from, to);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(save, nullptr, nullptr);
}

void Worker::goHome() {
  void* nowhere;
  switchTo(&nowhere, home_, &homeStack_, true);
  std::abort();  // nothing comes back here
}

// What every stack begins with: the threads that have not begun, one after the other, as long as none suspends itself.
void Worker::runThreads() {
  Worker& w = *worker;
  Stack* const stack = w.stacks_.taken();
  if (__sanitizer_finish_switch_fiber) {
    const void* from;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &from, &bytes);
    if (w.running_++ == 0) w.homeStack_ = {static_cast<char*>(const_cast<void*>(from)), bytes, nullptr};
  }
  for (;;) {
    w.self().phase = Phase::active;
    if (hasThreadSanitizer()) w.threadOrder_.beginThread(w.current_);
    w.launch_->run(w.launch_->arguments);
    if (hasThreadSanitizer()) w.threadOrder_.endThread();
    w.self().phase = Phase::finished;
    w.finished_++;
    const int next = w.pick();
    if (next < 0) {
      if (w.finished_ < w.launch_->threads) {
        w.isFailed_ = true;
        w.report_ = w.deadlock();
      }
      if (!hasThreadSanitizer()) w.stacks_.give(stack);
      w.goHome();
    }
    if (hasThreadSanitizer()) {
      void* nowhere;
      w.leave(&nowhere, next);
    }
    if (w.threads_[next].phase == Phase::unstarted) {
      w.begin(next);
      w.self().stack = stack;
      continue;
    }
    w.stacks_.give(stack);
    w.begin(next);
    void* nowhere;
    w.switchTo(&nowhere, w.threads_[next].place, w.threads_[next].stack, true);
  }
}

void Worker::suspend() {
  goAside();
  const int next = pick();
  if (next == current_) {
    if (hasThreadSanitizer()) threadOrder_.resumeThread(next);
    return;
  }
  if (next >= 0) return leave(&self().place, next);
  fail(deadlock());
}

void Worker::fail(std::string text) {
  isFailed_ = true;
  report_ = std::move(text);
  goHome();
}

int Worker::barrier(Vote vote, bool value, Site site) {
  Thread& t = self();
  if (arrived_ == 0) {
    barrierSite_ = site;
    vote_ = vote;
  } else if (vote != vote_ || !sameSite(site, barrierSite_)) {
    barrierDiffers_ = true;
  }
  t.waitsAt = Operation::barrier;
  t.site = site;
  votes_ += value;
  if (++arrived_ < launch_->threads) {
    suspend();
    return result_;
  }
  if (barrierDiffers_) fail(deadlock());
  result_ = vote == Vote::any ? votes_ > 0 : vote == Vote::all ? votes_ == launch_->threads : votes_;
  arrived_ = votes_ = 0;
  if (hasThreadSanitizer()) threadOrder_.meetAll(launch_->threads, current_);
  for (int i = 0; i < launch_->threads; i++) threads_[i].waitsAt = Operation::none;
  for (int i = 0; i < launch_->threads; i += warpLanes) {
    const int lanes = launch_->threads - i < warpLanes ? launch_->threads - i : warpLanes;
    setReady(i / warpLanes, lanes == warpLanes ? 0xffffffffu : (1u << lanes) - 1);
  }
  suspend();  // this thread is among those that can run
  return result_;
}

bool Worker::arrive(Operation operation, int variant, uint32_t mask, void* operands, Site site) {
  Thread& t = self();
  const int warp = current_ / warpLanes, first = firstOfWarp();
  t.waitsAt = operation;
  t.variant = variant;
  t.mask = mask;
  t.operands = operands;
  t.site = site;
  if (!(mask >> lane() & 1))
    fail(describe(site) +
         format(": %s with mask 0x%08x, which does not name the lane itself", nameOf(operation), mask));
  const int lanes = launch_->threads - first;
  if (lanes < warpLanes && mask >> lanes)
    fail(describe(site) + format(": %s with mask 0x%08x in a warp of only %d lanes", nameOf(operation), mask, lanes));
  const bool isAligned = operation == Operation::loadMatrices || operation == Operation::multiplyAdd;
  atWarp_[warp] |= 1u << lane();
  if ((atWarp_[warp] & mask) != mask) return false;
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const Thread& other = threads_[first + std::countr_zero(rest)];
    if (other.waitsAt != operation || other.variant != variant || other.mask != mask) return false;
    if (isAligned && !sameSite(other.site, site)) return false;
  }
  return true;
}

// All lanes of the mask go on, and this one is among them.
void Worker::release(uint32_t mask) {
  const int warp = current_ / warpLanes, first = firstOfWarp();
  atWarp_[warp] &= ~mask;
  for (uint32_t rest = mask; rest; rest &= rest - 1) threads_[first + std::countr_zero(rest)].waitsAt = Operation::none;
  if (order_ != Order::random) {
    mask &= ~(1u << lane());
    if (mask) setReady(warp, mask);
    return;
  }
  setReady(warp, mask);
  suspend();
}

// ---- Messages

std::string Worker::heading() const {
  const Index b = state.block, g = state.gridSize;
  return format("block (%u, %u, %u) of (%u, %u, %u), %d threads", b.x, b.y, b.z, g.x, g.y, g.z, launch_->threads);
}

std::string Worker::describe(Site site) const {
  return format("thread %d (warp %d, lane %d) at %s, ", current_, current_ / warpLanes, current_ % warpLanes,
                siteText(site).c_str()) +
         heading();
}

std::string Worker::deadlock() const {
  const auto textOf = [&](int i) -> std::string {
    const Thread& t = threads_[i];
    if (t.phase == Phase::finished) return "has ended";
    if (t.waitsAt == Operation::barrier) return format("waits at %s, %s", nameOf(t.waitsAt), siteText(t.site).c_str());
    return format("waits at %s with mask 0x%08x, %s", nameOf(t.waitsAt), t.mask, siteText(t.site).c_str());
  };
  std::string text = "deadlock in " + heading();
  constexpr int most = 24;
  int lines = 0;
  for (int i = 0; i < launch_->threads;) {
    const std::string what = textOf(i);
    int end = i + 1;
    while (end < launch_->threads && textOf(end) == what) end++;
    if (lines++ == most) return text + "\n  …";
    const std::string who = end == i + 1
                                ? format("thread %d (warp %d, lane %d)", i, i / warpLanes, i % warpLanes)
                                : format("threads %d…%d (warp %d, lane %d to warp %d, lane %d)", i, end - 1,
                                         i / warpLanes, i % warpLanes, (end - 1) / warpLanes, (end - 1) % warpLanes);
    text += "\n  " + who + " " + what;
    i = end;
  }
  return text;
}

}  // namespace sim
}  // namespace hadal
