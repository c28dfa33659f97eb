// Formulas, shapes, bytes: native/ops/rotary.h. A thread rotates a pack of pairs, 32 bytes of a head, or copies 16 bytes of the
// dims that stay.
#include "ops/rotary.h"

#include "cuda/rotation.cuh"

namespace hadal {
namespace cuda {
namespace rotary_kernels {

template <class T, int n>
void runPacks(const RotaryParams& p, void* const* b, RunContext& context) {
  const T* const x = static_cast<const T*>(b[0]);
  T* const y = static_cast<T*>(b[4]);
  const int64_t pairs = p.rotaryDims / 2, end = p.offset + p.rotaryDims;
  HeadPieces pieces{
      .table = {static_cast<const float*>(b[1]), static_cast<const float*>(b[2]), static_cast<const int32_t*>(b[3]),
                p.positions, static_cast<int>(pairs), p.interleaved != 0, p.inverse ? -1.0f : 1.0f},
      .tokens = p.tokens};
  const auto add = [&](int64_t begin, int64_t packs, bool isRotated) {
    pieces.add({x + begin, y + begin, p.dim, p.dim, static_cast<int>(packs), isRotated, false});
  };
  add(p.offset, pairs / n, true);
  if (x != y) add(0, p.offset / n, false), add(end, (p.dim - end) / n, false);
  launchMoves<T, n>(context, pieces, p.heads);
}

void run(const RotaryParams& p, void* const* b, RunContext& context) {
  dispatch(p.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int n = packed<T>;
    const bool isWide = (p.dim | p.offset | p.rotaryDims / 2) % n == 0 && isAligned(b[0], 16) && isAligned(b[1], 16) &&
                        isAligned(b[2], 16) && isAligned(b[4], 16);
    isWide ? runPacks<T, n>(p, b, context) : runPacks<T, 1>(p, b, context);
  });
}

int64_t noWorkspace(const RotaryParams&, int) { return 0; }

void explain(const RotaryParams& p, const Fault& fault, RunContext& context) {
  context.fail("[rotary] expected positions of 0 to %lld, got %lld", static_cast<long long>(p.positions - 1),
               static_cast<long long>(fault.numbers[0]));
}

}  // namespace rotary_kernels

HADAL_KERNEL_WITH_FAULTS(rotary, RotaryParams, rotary_kernels::run, rotary_kernels::noWorkspace,
                         rotary_kernels::explain)

}  // namespace cuda
}  // namespace hadal
