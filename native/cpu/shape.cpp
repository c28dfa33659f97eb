#include "ops/shape.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

void runConcat(const ConcatParams& p, void* const* buffers, RunContext& context) {
  const int64_t row = p.outBytes();
  parallelFor(p.outer, context.threads, 1 + 65536 / (row + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t o = begin; o < end; o++) {
      char* to = static_cast<char*>(buffers[concatInputs]) + o * row;
      for (int64_t n = 0; n < p.inputs; n++) {
        if (p.rowBytes[n] == 0) continue;  // its buffer may be null
        copyShort(to, static_cast<const char*>(buffers[n]) + o * p.rowBytes[n], p.rowBytes[n]);
        to += p.rowBytes[n];
      }
    }
  });
}

void runUnslice(const UnsliceParams& p, void* const* buffers, RunContext& context) {
  if (p.outBytes == 0) return;  // both buffers may be null
  parallelFor(p.outer, context.threads, 1 + 65536 / (p.outBytes + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t o = begin; o < end; o++) {
      char* to = static_cast<char*>(buffers[1]) + o * p.outBytes;
      const int64_t after = p.startBytes + p.inBytes;
      std::memset(to, 0, static_cast<size_t>(p.startBytes));
      if (p.inBytes > 0) copyShort(to + p.startBytes, static_cast<const char*>(buffers[0]) + o * p.inBytes, p.inBytes);
      std::memset(to + after, 0, static_cast<size_t>(p.outBytes - after));
    }
  });
}

}  // namespace

HADAL_KERNEL(concat, ConcatParams, runConcat)
HADAL_KERNEL(unslice, UnsliceParams, runUnslice)

}  // namespace HADAL_ISA
}  // namespace hadal
