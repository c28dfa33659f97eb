// Formulas, shapes, bytes: native/ops/shape.h. A thread takes one unit of the output: 16 bytes where all rows and addresses are
// multiples of that, else 4, 2 or 1.
#include "ops/shape.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace shape {

// Sizes in units. Input n fills units starts[n] … starts[n + 1] of an output row.
struct Concat {
  const void* in[concatInputs];
  int64_t starts[concatInputs + 1];
  int64_t units;  // of the whole output
  Divider row;
  int inputs;
};

template <class Unit>
__device__ void concat(const Concat& c, Unit* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (at >= c.units) return;
  int64_t column;
  const int64_t row = c.row.divide(at, column);
  int n = 0;
  while (n + 1 < c.inputs && column >= c.starts[n + 1]) n++;
  const int64_t width = c.starts[n + 1] - c.starts[n];
  out[at] = static_cast<const Unit*>(c.in[n])[row * width + column - c.starts[n]];
}

struct Unslice {
  int64_t units, start, width;
  Divider row;
};

template <class Unit>
__device__ void unslice(const Unslice& u, const Unit* in, Unit* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (at >= u.units) return;
  int64_t column;
  const int64_t row = u.row.divide(at, column);
  column -= u.start;
  out[at] = column >= 0 && column < u.width ? in[row * u.width + column] : Unit{};
}

// Calls f with a unit of which all the numbers and addresses, or'ed together, are multiples.
template <class F>
void dispatchUnit(uint64_t bits, F&& f) {
  if (bits % 16 == 0) return f(Pack<uint32_t, 4>{});
  if (bits % 4 == 0) return f(uint32_t{});
  if (bits % 2 == 0) return f(uint16_t{});
  f(uint8_t{});
}

void runConcat(const ConcatParams& p, void* const* b, RunContext& context) {
  uint64_t bits = reinterpret_cast<uintptr_t>(b[concatInputs]);
  for (int64_t n = 0; n < p.inputs; n++) {
    if (p.rowBytes[n] == 0) continue;  // its buffer may be null
    bits |= static_cast<uint64_t>(p.rowBytes[n]) | reinterpret_cast<uintptr_t>(b[n]);
  }
  dispatchUnit(bits, [&](auto unit) {
    using Unit = decltype(unit);
    constexpr int64_t bytes = sizeof(Unit);
    const int64_t rowUnits = p.outBytes() / bytes;
    Concat c{};
    c.units = p.outer * rowUnits, c.row = Divider(rowUnits), c.inputs = static_cast<int>(p.inputs);
    for (int n = 0; n < c.inputs; n++) c.in[n] = b[n], c.starts[n + 1] = c.starts[n] + p.rowBytes[n] / bytes;
    launch<concat<Unit>, threads>(context, {.x = blocksFor(c.units, threads)}, c, static_cast<Unit*>(b[concatInputs]));
  });
}

void runUnslice(const UnsliceParams& p, void* const* b, RunContext& context) {
  const int64_t sizes = p.inBytes | p.startBytes | p.outBytes;
  const uintptr_t in = p.inBytes ? reinterpret_cast<uintptr_t>(b[0]) : 0;
  dispatchUnit(static_cast<uint64_t>(sizes) | in | reinterpret_cast<uintptr_t>(b[1]), [&](auto unit) {
    using Unit = decltype(unit);
    constexpr int64_t bytes = sizeof(Unit);
    const int64_t rowUnits = p.outBytes / bytes;
    const Unslice u{p.outer * rowUnits, p.startBytes / bytes, p.inBytes / bytes, Divider(rowUnits)};
    launch<unslice<Unit>, threads>(context, {.x = blocksFor(u.units, threads)}, u, static_cast<const Unit*>(b[0]),
                                   static_cast<Unit*>(b[1]));
  });
}

}  // namespace shape

HADAL_KERNEL(concat, ConcatParams, shape::runConcat)
HADAL_KERNEL(unslice, UnsliceParams, shape::runUnslice)

}  // namespace cuda
}  // namespace hadal
