#include "sim/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "sim/runtime.h"
#include "sim/sanitizers.h"
#include "sim/stream.h"

namespace hadal {
namespace sim {
namespace {

constexpr size_t page = 4096;
constexpr size_t alignment = 256;  // what cudaMalloc promises
constexpr size_t totalBytes = size_t{16} << 30;

struct Allocation {
  size_t bytes;
  Side side;
  void* mapping;  // null for memory that is only registered
  size_t mappedBytes;
  int device;
};

std::mutex mutex;
std::map<uintptr_t, Allocation>& allocations() {
  static auto& map = *new std::map<uintptr_t, Allocation>;
  return map;
}
size_t deviceBytes = 0;

// The end lies at a page that may not be touched, or at AddressSanitizer's red zone.
cudaError_t allocate(void** memory, size_t bytes, Side side) {
  if (!memory) return cudaErrorInvalidValue;
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (side == Side::device && refusesWhileCapturing()) return cudaErrorStreamCaptureUnsupported;
  std::lock_guard lock(mutex);
  if (bytes > totalBytes || (side == Side::device && bytes > totalBytes - deviceBytes))
    return cudaErrorMemoryAllocation;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  Allocation made{bytes, side, nullptr, 0, currentDevice()};
  char* base;
  if (hasAddressSanitizer()) {
    if (posix_memalign(&made.mapping, alignment, bytes)) return cudaErrorMemoryAllocation;
    base = static_cast<char*>(made.mapping);
  } else {
    made.mappedBytes = (rounded + page - 1) / page * page + page;
    made.mapping =
        mmap(nullptr, made.mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made.mapping == MAP_FAILED) return cudaErrorMemoryAllocation;
    char* const guard = static_cast<char*>(made.mapping) + made.mappedBytes - page;
    mprotect(guard, page, PROT_NONE);
    base = guard - rounded;
  }
  std::memset(base, 0xff, bytes);
  allocations().emplace(reinterpret_cast<uintptr_t>(base), made);
  if (side == Side::device) deviceBytes += bytes;
  *memory = base;
  return cudaSuccess;
}

cudaError_t release(void* memory, Side side) {
  if (!memory) return cudaSuccess;
  if (side == Side::device && refusesWhileCapturing()) return cudaErrorStreamCaptureUnsupported;
  std::unique_lock lock(mutex);
  const auto at = allocations().find(reinterpret_cast<uintptr_t>(memory));
  if (at == allocations().end() || at->second.side != side || !at->second.mapping) return cudaErrorInvalidValue;
  const int device = at->second.device;
  lock.unlock();
  const cudaError_t error = synchronize(device);  // as the real ones do
  lock.lock();
  if (side == Side::device) deviceBytes -= at->second.bytes;
  if (hasAddressSanitizer())
    std::free(at->second.mapping);
  else
    munmap(at->second.mapping, at->second.mappedBytes);
  allocations().erase(at);
  return error;
}

}  // namespace

Place placeOf(const void* memory, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  std::lock_guard lock(mutex);
  auto after = allocations().upper_bound(address);
  if (after == allocations().begin()) return {};
  const auto& [base, allocation] = *--after;
  if (address > base + allocation.bytes) return {};
  return {allocation.side, reinterpret_cast<const char*>(base), allocation.bytes,
          bytes <= base + allocation.bytes - address};
}

}  // namespace sim
}  // namespace hadal

using namespace hadal::sim;

cudaError_t cudaMalloc(void** memory, size_t bytes) { return allocate(memory, bytes, Side::device); }
cudaError_t cudaFree(void* memory) { return release(memory, Side::device); }
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return allocate(memory, bytes, Side::pinned); }
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) { return allocate(memory, bytes, Side::pinned); }
cudaError_t cudaFreeHost(void* memory) { return release(memory, Side::pinned); }

cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned) {
  if (!memory || bytes == 0 || placeOf(memory, bytes).side != Side::pageable) return cudaErrorInvalidValue;
  std::lock_guard lock(mutex);
  allocations().emplace(reinterpret_cast<uintptr_t>(memory),
                        Allocation{bytes, Side::pinned, nullptr, 0, currentDevice()});
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
  const cudaError_t error = cudaDeviceSynchronize();
  std::lock_guard lock(mutex);
  const auto at = allocations().find(reinterpret_cast<uintptr_t>(memory));
  if (at == allocations().end() || at->second.mapping) return cudaErrorInvalidValue;
  allocations().erase(at);
  return error;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard lock(mutex);
  *free = totalBytes - deviceBytes;
  *total = totalBytes;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  const Side side = placeOf(memory, 0).side;
  void* const address = const_cast<void*>(memory);
  *attributes = {side == Side::device   ? cudaMemoryTypeDevice
                 : side == Side::pinned ? cudaMemoryTypeHost
                                        : cudaMemoryTypeUnregistered,
                 0, side == Side::pageable ? nullptr : address, side == Side::device ? nullptr : address};
  return cudaSuccess;
}
