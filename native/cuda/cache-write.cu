// Formulas, shapes, bytes: native/ops/cache-write.h. A thread takes one unit of bytes, as large as rows and addresses allow. A cache
// that is not y is copied whole first.
#include "ops/cache-write.h"

#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {
namespace cache_write {

template <class Unit>
__device__ void copy(int64_t units, const Unit* from, Unit* to) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (at < units) to[at] = from[at];
}

// Sizes in units.
struct Write {
  int64_t capacity, tokens, row, units;
  Divider entry;  // units of a batch entry of x
};

enum class Wrong : int64_t { count, start };

template <class Unit>
__device__ void write(Write w, const Unit* x, const int32_t* start, const int32_t* counts, Unit* y, FaultSite faults) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (at >= w.units) return;
  int64_t i;
  const int64_t b = w.entry.divide(at, i), count = counts ? counts[b] : w.tokens, from = start[b];
  if (count < 0 || count > w.tokens) return faults.report(static_cast<int64_t>(Wrong::count), count);
  if (from < 0 || from > w.capacity - count) return faults.report(static_cast<int64_t>(Wrong::start), count, from);
  if (i < count * w.row) y[(b * w.capacity + from) * w.row + i] = x[at];
}

template <class Unit>
void runUnits(const CacheWriteParams& p, void* const* b, RunContext& context) {
  const int64_t row = p.rowBytes / static_cast<int64_t>(sizeof(Unit)), all = p.batch * p.capacity * row;
  const Unit* const cache = static_cast<const Unit*>(b[0]);
  Unit* const y = static_cast<Unit*>(b[4]);
  if (cache != y) launch<copy<Unit>, threads>(context, {.x = blocksFor(all, threads)}, all, cache, y);
  const Write w{p.capacity, p.tokens, row, p.batch * p.tokens * row, Divider(p.tokens * row)};
  launch<write<Unit>, threads>(context, {.x = blocksFor(w.units, threads)}, w, static_cast<const Unit*>(b[1]),
                               static_cast<const int32_t*>(b[2]), static_cast<const int32_t*>(b[3]), y,
                               faultsOf(context));
}

void run(const CacheWriteParams& p, void* const* b, RunContext& context) {
  const auto areMultiples = [&](int64_t bytes) {
    return p.rowBytes % bytes == 0 && isAligned(b[0], bytes) && isAligned(b[1], bytes) && isAligned(b[4], bytes);
  };
  if (areMultiples(16)) return runUnits<Pack<uint32_t, 4>>(p, b, context);
  if (areMultiples(4)) return runUnits<uint32_t>(p, b, context);
  runUnits<uint8_t>(p, b, context);
}

int64_t noWorkspace(const CacheWriteParams&, int) { return 0; }

void explain(const CacheWriteParams& p, const Fault& fault, RunContext& context) {
  const auto number = [](int64_t n) { return static_cast<long long>(n); };
  if (static_cast<Wrong>(fault.numbers[0]) == Wrong::count)
    context.fail("[cache-write] expected counts from 0 to %lld, got %lld", number(p.tokens), number(fault.numbers[1]));
  else
    context.fail("[cache-write] expected start + %lld tokens within a capacity of %lld, got start %lld",
                 number(fault.numbers[1]), number(p.capacity), number(fault.numbers[2]));
}

}  // namespace cache_write

HADAL_KERNEL_WITH_FAULTS(cacheWrite, CacheWriteParams, cache_write::run, cache_write::noWorkspace, cache_write::explain)

}  // namespace cuda
}  // namespace hadal
