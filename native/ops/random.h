// Counter-based random numbers: Philox4x32-10. Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
// Element i takes word i mod 4 of the block with counter (⌊i/4⌋ low, ⌊i/4⌋ high, stream, attempt) under key_2 int32
// [seed, step]: neither threads, nor tiles, nor instruction sets show in the numbers.
//   random-fill uniform: mean ± √3·std;  normal: Box & Muller 1958 of words (0,1) and (2,3);
//     truncated-normal: a normal drawn again (attempt 1, 2, …) until it lies within two standard deviations
//   dropout: y = x / (1 − p) where the element's uniform number in [0, 1) is at least p, else 0
// N numbers in dtype. Bytes: random-fill writes N; dropout reads N, writes N.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

enum Distribution : int64_t { uniform = 0, normal = 1, truncatedNormal = 2 };

struct RandomFillParams {
  int64_t count, stream, distribution;
  double mean, std;
  DType dtype;

  const char* check() const {
    if (count < 0 || count > INT64_MAX / 8) return "expected count >= 0";
    if (stream < 0 || stream > UINT32_MAX) return "expected a stream from 0 to 2^32 - 1";
    if (distribution < uniform || distribution > truncatedNormal) return "expected a known distribution";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  BufferList buffers() const { return BufferList().in("key", 8).out("y", count * bytesOf(dtype)); }
};

struct DropoutParams {
  int64_t count, stream;
  double probability;
  DType dtype;

  const char* check() const {
    if (count < 0 || count > INT64_MAX / 8) return "expected count >= 0";
    if (stream < 0 || stream > UINT32_MAX) return "expected a stream from 0 to 2^32 - 1";
    if (!(probability >= 0 && probability < 1)) return "expected 0 <= probability < 1";
    if (!isFloat(dtype)) return "expected a float dtype";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList().in("x", count * bytesOf(dtype)).in("key", 8).out("y", count * bytesOf(dtype));
  }
};

HADAL_CONTRACT(randomFill, "random-fill", RandomFillParams, count, stream, distribution, mean, std, dtype);
HADAL_CONTRACT(dropout, "dropout", DropoutParams, count, stream, probability, dtype);

}  // namespace
}  // namespace hadal
