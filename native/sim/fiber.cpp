#include "sim/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "sim/sanitizers.h"

namespace hadal {
namespace sim {

#if defined(__x86_64__)
// The registers that a called function must keep; the rest the compiler has saved around the call.
asm(R"(
.text
.hidden hadalSimSwitch
.globl hadalSimSwitch
.type hadalSimSwitch, @function
hadalSimSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size hadalSimSwitch, .-hadalSimSwitch
)");

namespace {
void* firstPlace(char* top, void (*function)()) {
  auto** place = reinterpret_cast<void**>(top);
  *--place = nullptr;  // a function begins with its stack 8 bytes off 16
  *--place = reinterpret_cast<void*>(function);
  for (int i = 0; i < 6; i++) *--place = nullptr;
  return place;
}
}  // namespace
#elif defined(__aarch64__)
asm(R"(
.text
.hidden hadalSimSwitch
.globl hadalSimSwitch
.type hadalSimSwitch, %function
hadalSimSwitch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
.size hadalSimSwitch, .-hadalSimSwitch
)");

namespace {
void* firstPlace(char* top, void (*function)()) {
  auto** place = reinterpret_cast<void**>(top - 160);
  for (int i = 0; i < 20; i++) place[i] = nullptr;
  place[1] = reinterpret_cast<void*>(function);
  return place;
}
}  // namespace
#else
#error "the host executor knows how to switch stacks on x86-64 and aarch64"
#endif

namespace {

constexpr size_t page = 4096;
// Instrumented frames are several times as large.
const size_t stackBytes = (hasAddressSanitizer() || hasThreadSanitizer() ? 256 : 128) * size_t{1024};
// An odd number of pages from one stack to the next, so that the same frame on all of them does not fall into the same
// lines of a cache. The first page is the guard.
const size_t stride = stackBytes + page;
constexpr int stacksPerMapping = 32;

}  // namespace

void StackPool::add() {
  void* memory =
      mmap(nullptr, stride * stacksPerMapping, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("[cuda-sim] no memory for the stacks of threads");
    std::abort();
  }
  for (int i = 0; i < stacksPerMapping; i++) {
    char* guard = static_cast<char*>(memory) + i * stride;
    mprotect(guard + page, stride - page, PROT_READ | PROT_WRITE);
    auto* stack = new Stack{guard + page, stride - page, nullptr};
    all_.push_back(stack);
    free_.push_back(stack);
  }
}

Stack* StackPool::take() {
  if (free_.empty()) add();
  Stack* stack = free_.back();
  free_.pop_back();
  // Whatever ran there before has overwritten the first frame.
  char* const top = stack->low + stack->bytes - page + ((reinterpret_cast<uintptr_t>(stack->low) / page) % 32) * 128;
  stack->start = firstPlace(top, function_);
  return taken_ = stack;
}

void StackPool::takeBackAll() {
  free_ = all_;
  // Frames that were left for good still lie in AddressSanitizer's books.
  if (hasAddressSanitizer())
    for (Stack* stack : all_) __asan_unpoison_memory_region(stack->low, stack->bytes);
}

StackPool::~StackPool() {
  for (size_t i = 0; i < all_.size(); i++) {
    if (i % stacksPerMapping == 0) munmap(all_[i]->low - page, stride * stacksPerMapping);
    delete all_[i];
  }
}

}  // namespace sim
}  // namespace hadal
