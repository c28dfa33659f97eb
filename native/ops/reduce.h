// Reductions over the middle of x_ORI: out_OI = scale · reduce over R of x. O outer, R reduced, I inner.
// Sums are in fp32 over blocks of fixed length whose results are added in a fixed order: the same bits for any number of
// threads. int32 sums are exact. Bytes: reads O·R·I, writes O·I.
// With `extent` (int32 [1]), only the first extent · extentUnit entries of R count; O is 1 then.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

// Numbers shared with src/ops/reduce.ts.
enum class Reduction : int64_t { sum = 0, maximum = 1, sumOfSquares = 2 };

struct ReduceParams {
  int64_t outer, reduced, inner, reduction, extentUnit;
  double scale;
  DType dtype, outputType;

  const char* check() const {
    constexpr int64_t most = int64_t{1} << 40;
    int64_t total = 1;
    for (int64_t n : {outer, reduced, inner})
      if (n < 0 || n > most || __builtin_mul_overflow(total, n, &total) || total > most)
        return "expected sizes from 0 to 2^40";
    if (!sizeFits(outer, inner, 8)) return "expected a result of fewer than 2^53 elements";
    if (extentUnit < 0 || extentUnit > reduced) return "expected extentUnit from 0 to reduced";
    if (reduction < 0 || reduction > 2) return "unknown reduction";
    if (dtype == DType::uint8 || (dtype == DType::int32) != (outputType == DType::int32))
      return "expected float to float or int32 to int32";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList()
        .in("x", outer * reduced * inner * bytesOf(dtype))
        .optional("extent", 4)
        .out("out", outer * inner * bytesOf(outputType));
  }
};

HADAL_CONTRACT(reduce, "reduce", ReduceParams, outer, reduced, inner, reduction, extentUnit, scale, dtype, outputType);

}  // namespace
}  // namespace hadal
