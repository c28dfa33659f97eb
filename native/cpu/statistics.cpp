#include "ops/statistics.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

constexpr int64_t block = StatisticsParams::block;

struct Partial {
  float smallest, greatest;
  int32_t zeros, notFinite;
};

int64_t workspaceBytes(const StatisticsParams& p, int) {
  return (p.count + block - 1) / block * static_cast<int64_t>(sizeof(Partial));
}

HADAL_INLINE void add(Partial& total, const Partial& x) {
  if (x.smallest < total.smallest) total.smallest = x.smallest;
  if (x.greatest > total.greatest) total.greatest = x.greatest;
  total.zeros += x.zeros;
  total.notFinite += x.notFinite;
}

constexpr Partial none{INFINITY, -INFINITY, 0, 0};

HADAL_INLINE Partial ofNumber(float x) {
  if (!(std::fabs(x) < INFINITY)) return {INFINITY, -INFINITY, 0, 1};
  return {x, x, x == 0, 0};
}

// At most one block.
template <class T>
HADAL_INLINE Partial ofRun(const T* x, int64_t count) {
  Vec smallest = splat(INFINITY), greatest = splat(-INFINITY);
  IVec zeros = {}, notFinite = {};  // true is −1
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    prefetch(x + i);
    const Vec v = load(x + i);
    const IVec isFinite = (reinterpret_cast<IVec>(v) & 0x7f800000) != 0x7f800000;
    smallest = min(select(isFinite, v, splat(INFINITY)), smallest);
    greatest = max(select(isFinite, v, splat(-INFINITY)), greatest);
    zeros += v == 0;
    notFinite += ~isFinite;
  }
  Partial total = none;
  for (int l = 0; l < lanes; l++) add(total, {smallest[l], greatest[l], -zeros[l], -notFinite[l]});
  for (; i < count; i++) add(total, ofNumber(toFloat(x[i])));
  return total;
}

void run(const StatisticsParams& p, void* const* buffers, RunContext& context) {
  int64_t count = p.count;
  if (const auto* extent = static_cast<const int32_t*>(buffers[1])) {
    if (*extent < 0 || (p.unit > 0 && *extent > p.count / p.unit))
      return context.fail("[statistics] extent %d is out of range", *extent);
    count = *extent * p.unit;
  }
  Partial* partials = static_cast<Partial*>(context.workspace);
  const int64_t blocks = (count + block - 1) / block;
  parallelFor(blocks, context.threads, 2, [&](int64_t begin, int64_t end, int) {
    dispatch(p.dtype, [&](auto zero) {
      using T = decltype(zero);
      const T* x = static_cast<const T*>(buffers[0]);
      for (int64_t b = begin; b < end; b++) {
        const int64_t left = count - b * block;
        partials[b] = ofRun(x + b * block, left < block ? left : block);
      }
    });
  });
  Partial total = none;
  int64_t zeros = 0, notFinite = 0;
  for (int64_t b = 0; b < blocks; b++) {
    add(total, {partials[b].smallest, partials[b].greatest, 0, 0});
    zeros += partials[b].zeros;
    notFinite += partials[b].notFinite;
  }
  float* y = static_cast<float*>(buffers[2]);
  y[0] = total.smallest;
  y[1] = total.greatest;
  y[2] = static_cast<float>(zeros);
  y[3] = static_cast<float>(notFinite);
  y[4] = static_cast<float>(count);
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(statistics, StatisticsParams, run, workspaceBytes)

}  // namespace HADAL_ISA
}  // namespace hadal
