// Writes new tokens into a cache of fixed capacity: y = cache with rows start[b] … start[b] + n of batch entry b replaced by the
// first n of x's, n being counts[b], or T without counts.
// B batch, S capacity, T new tokens. cache_BS…, x_BT…, y_BS… of rows of rowBytes bytes; start_B, counts_B int32.
// y may be the cache's memory; then only the new rows are touched.
// Bytes: reads and writes B·T rows, and B·S rows when y is not the cache.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct CacheWriteParams {
  int64_t batch, capacity, tokens, rowBytes;

  const char* check() const {
    const int64_t sizes[] = {batch, capacity, tokens, rowBytes};
    for (const int64_t size : sizes)
      if (size < 0 || size > INT32_MAX) return "expected sizes of 0 to 2^31 - 1";
    const __int128 rows = static_cast<__int128>(batch) * rowBytes, most = __int128{1} << 50;  // rows below 2^62
    if (rows * capacity > most || rows * tokens > most) return "sizes overflow";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("cache", batch * capacity * rowBytes)
        .in("x", batch * tokens * rowBytes)
        .in("start", batch * 4)
        .optional("counts", batch * 4)
        .out("y", batch * capacity * rowBytes);
  }
};

HADAL_CONTRACT(cacheWrite, "cache-write", CacheWriteParams, batch, capacity, tokens, rowBytes);

}  // namespace
}  // namespace hadal
