// Where another machine may take the place of the host executor: once one is set, every launch is handed to it.
#pragma once
#include <cstddef>

namespace hadal {
namespace sim {

// How many blocks, in up to three dimensions, and the bytes of dynamic shared memory of each.
struct LaunchGrid {
  unsigned x = 1, y = 1, z = 1;
  size_t sharedBytes = 0;
};

// Runs a whole launch before it returns, and says whether it did. `kernelName` is __PRETTY_FUNCTION__ of the launch: its text
// names the body, the threads, the blocks a multiprocessor and the types of all arguments. The arguments are the kernel's
// parameters in order, hadal::cuda::Gate (by value) first; their memory is host memory and lasts for the call,
// pointers in them are device memory, which this process can read and write. Called in stream order, from one
// thread at a time.
using Interpreter = bool (*)(const char* kernelName, LaunchGrid grid, int threads, void* const* argumentPointers,
                             const size_t* argumentBytes, int argumentCount);

// Null gives launches back to the host executor.
void setInterpreter(Interpreter run);

// For the interpreter that returns false: why. The launch's stream reports it at its next synchronisation.
void setInterpreterError(const char* text);

}  // namespace sim
}  // namespace hadal

// The same for a library that was opened at run time.
extern "C" __attribute__((visibility("default"))) void hadalSimSetInterpreter(hadal::sim::Interpreter run);
extern "C" __attribute__((visibility("default"))) void hadalSimSetInterpreterError(const char* text);
