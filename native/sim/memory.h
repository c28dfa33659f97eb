// What the simulated device owns: its own memory and host memory that it can reach.
#pragma once
#include <cstddef>

#include "sim/runtime.h"

namespace hadal {
namespace sim {

enum class Side { pageable, pinned, device };

struct Place {
  Side side = Side::pageable;
  const char* base = nullptr;  // of the allocation that it lies in, if any
  size_t bytes = 0;
  bool fits = true;  // the range asked for does not leave the allocation
};
// Where [memory, memory + bytes) lies. The end of an allocation counts as of it, as an empty buffer may lie there.
Place placeOf(const void* memory, size_t bytes);

// Of the calling thread.
int currentDevice();
// Runs all that streams of a device hold: freeing its memory waits for them.
cudaError_t synchronize(int device);

}  // namespace sim
}  // namespace hadal
