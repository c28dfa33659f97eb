#include "ops/ema.h"

#include "cpu/tensor-list.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

void update(const EmaParams& p, void* const* buffers, RunContext& context) {
  const float rest = *static_cast<const float*>(buffers[0]);
  forTensorList(p.tensors, p.count, context.threads, [&](int64_t tensor, int64_t begin, int64_t end) {
    const void* x = buffers[1 + 3 * tensor];
    const float* mean = static_cast<const float*>(buffers[2 + 3 * tensor]);
    float* next = static_cast<float*>(buffers[3 + 3 * tensor]);
    forLanes(end - begin, [&](int64_t offset, auto part) {
      const int64_t i = begin + offset;
      const Vec from = load(mean + i, part), to = loadAny(p.dtype[tensor], x, i, part);
      // Not from + (to − from)·1, which may miss `to` by a rounding.
      store(next + i, part, rest == 1 ? to : from + (to - from) * rest);
    });
  });
}

}  // namespace

HADAL_KERNEL(ema, EmaParams, update)

}  // namespace HADAL_ISA
}  // namespace hadal
