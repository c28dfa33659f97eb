// Launches on streams, as primitives.cuh puts them there.
#pragma once
#include <memory>

#include "sim/executor.h"

namespace hadal {
namespace sim {

// Whether a stream is being captured in a way that forbids what is done at once instead of in order.
bool refusesWhileCapturing();

// A launch with its arguments, which lie in what derives from it.
struct QueuedLaunch {
  const char* name;
  LaunchGrid grid;
  int threads;
  Gate gate;
  void (*run)(void* const* arguments);
  void* arguments[maxArguments];
  size_t argumentBytes[maxArguments];
  bool isPointer[maxArguments];  // into memory of the device
  int argumentCount = 0;

  void add(void* argument, size_t bytes, bool pointsToDevice) {
    arguments[argumentCount] = argument;
    argumentBytes[argumentCount] = bytes;
    isPointer[argumentCount++] = pointsToDevice;
  }
};

// Null, or why it cannot be launched: limits of the hardware.
const char* enqueue(void* stream, std::shared_ptr<QueuedLaunch> launch);

}  // namespace sim
}  // namespace hadal
