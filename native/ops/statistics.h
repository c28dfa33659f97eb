// What tells of a tensor's health, in one pass:
//   y = [smallest, greatest, zeros, not finite, count]
// x [count / unit, unit] in dtype; y fp32 [5]. Smallest and greatest are of the finite numbers, ∞ and −∞ where there are none.
// With `extent` (int32 [1]), only the first extent · unit numbers count. Numbers of numbers are exact up to 2^24.
// The same bits for any number of threads. Bytes: reads x once.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

inline constexpr int statisticsNumbers = 5;

struct StatisticsParams {
  // Numbers a partial result covers: it does not count beside them, and few are left to be joined.
  static constexpr int64_t block = 16384;

  int64_t count, unit;
  DType dtype;

  const char* check() const {
    if (count < 0 || count > INT64_MAX / 1024) return "expected count in 0..2^53";
    if (unit < 0 || unit > count) return "expected unit from 0 to count";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList().in("x", count * bytesOf(dtype)).optional("extent", 4).out("y", statisticsNumbers * 4);
  }
};

HADAL_CONTRACT(statistics, "statistics", StatisticsParams, count, unit, dtype);

}  // namespace
}  // namespace hadal
