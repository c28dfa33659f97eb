// When tensors that lie in a memory-mapped file are in memory. Neither changes what they hold, and memory of any other kind is
// passed over.
//   prefetch  brings them in, before they are used; writes = 1 such that writing them faults no more
//   release   begins to write what was changed to the disk and lets the system have the memory, after they were used
// Bytes: of the disk, what is not in memory (prefetch) or was changed (release).
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

// Tensors of one call: enough for what a call costs not to count.
constexpr int maxOffloaded = 64;

HADAL_INLINE const char* checkOffloaded(int64_t tensors, const int64_t* bytes) {
  if (tensors < 1 || tensors > maxOffloaded) return "expected 1..64 tensors";
  for (int64_t i = 0; i < tensors; i++)
    if (bytes[i] < 0) return "expected bytes >= 0";
  return nullptr;
}

HADAL_INLINE BufferList offloadedBuffers(int64_t tensors, const int64_t* bytes) {
  BufferList list;
  for (int64_t i = 0; i < tensors; i++) list.in("tensor", bytes[i]);
  return list;
}

struct PrefetchParams {
  int64_t tensors, writes;
  int64_t bytes[maxOffloaded];  // those beyond `tensors` do not count

  const char* check() const { return checkOffloaded(tensors, bytes); }
  BufferList buffers() const { return offloadedBuffers(tensors, bytes); }
};

struct ReleaseParams {
  int64_t tensors;
  int64_t bytes[maxOffloaded];  // those beyond `tensors` do not count

  const char* check() const { return checkOffloaded(tensors, bytes); }
  BufferList buffers() const { return offloadedBuffers(tensors, bytes); }
};

HADAL_CONTRACT(prefetch, "prefetch", PrefetchParams, tensors, writes, bytes);
HADAL_CONTRACT(release, "release", ReleaseParams, tensors, bytes);

}  // namespace
}  // namespace hadal
