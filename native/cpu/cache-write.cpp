#include "ops/cache-write.h"

#include <cstring>

#include "core/threads.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

void run(const CacheWriteParams& p, void* const* buffers, RunContext& context) {
  const char* cache = static_cast<const char*>(buffers[0]);
  const char* x = static_cast<const char*>(buffers[1]);
  const int32_t* start = static_cast<const int32_t*>(buffers[2]);
  const int32_t* counts = static_cast<const int32_t*>(buffers[3]);
  char* y = static_cast<char*>(buffers[4]);
  const int64_t entryBytes = p.capacity * p.rowBytes;
  parallelFor(p.batch, context.threads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b++) {
      if (y != cache && entryBytes > 0)
        std::memcpy(y + b * entryBytes, cache + b * entryBytes, static_cast<size_t>(entryBytes));
      const int64_t count = counts ? counts[b] : p.tokens, newBytes = count * p.rowBytes;
      if (count < 0 || count > p.tokens)
        return context.fail("[cache-write] expected counts from 0 to %lld, got %lld", static_cast<long long>(p.tokens),
                            static_cast<long long>(count));
      if (start[b] < 0 || start[b] > p.capacity - count)
        return context.fail("[cache-write] expected start + %lld tokens within a capacity of %lld, got start %d",
                            static_cast<long long>(count), static_cast<long long>(p.capacity), start[b]);
      if (newBytes == 0) continue;  // then x may be null
      std::memcpy(y + b * entryBytes + start[b] * p.rowBytes, x + b * p.tokens * p.rowBytes,
                  static_cast<size_t>(newBytes));
    }
  });
}

}  // namespace

HADAL_KERNEL(cacheWrite, CacheWriteParams, run)

}  // namespace HADAL_ISA
}  // namespace hadal
