// Stacks, and the switch from one to another: a thread of a CUDA block is one. A few instructions, where ucontext makes
// system calls.
#pragma once
#include <cstddef>
#include <vector>

namespace hadal {
namespace sim {

struct Stack {
  char* low = nullptr;  // above a page that may not be touched
  size_t bytes = 0;
  void* start = nullptr;  // what switchFiber takes to begin the stack's function anew
};

// Stacks of one OS thread. They are committed by the page as they are used, and used again.
class StackPool {
 public:
  // `function` must not return. All stacks of a pool begin with it.
  explicit StackPool(void (*function)()) : function_(function) {}
  ~StackPool();
  Stack* take();
  // The one taken last.
  Stack* taken() const { return taken_; }
  void give(Stack* stack) { free_.push_back(stack); }
  // All of them, whatever still ran there.
  void takeBackAll();

 private:
  void add();
  void (*function_)();
  Stack* taken_ = nullptr;
  std::vector<Stack*> all_, free_;
};

// Leaves this stack, whose place is stored, and goes on at another's place.
extern "C" void hadalSimSwitch(void** from, void* to);

}  // namespace sim
}  // namespace hadal
