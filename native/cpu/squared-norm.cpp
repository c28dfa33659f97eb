#include "ops/squared-norm.h"

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

constexpr int64_t block = SquaredNormParams::block;

HADAL_INLINE int64_t blocksOf(int64_t count) { return (count + block - 1) / block; }

int64_t allBlocks(const SquaredNormParams& p) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < p.tensors; i++) blocks += blocksOf(p.count[i]);
  return blocks;
}

int64_t workspaceBytes(const SquaredNormParams& p, int) { return allBlocks(p) * 4; }

template <class T>
HADAL_INLINE float sumOfSquares(const T* x, int64_t count) {
  Vec total = {};
  forLanes(count, [&](int64_t i, auto part) {
    const Vec v = load(x + i, part);
    total += v * v;
  });
  return sum(total);
}

void run(const SquaredNormParams& p, void* const* buffers, RunContext& context) {
  float* partials = static_cast<float*>(context.workspace);
  const int64_t blocks = allBlocks(p);
  parallelFor(blocks, context.threads, 32, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;  // block of a tensor's first number
    for (int64_t i = 0; i < p.tensors; i++) {
      const int64_t own = blocksOf(p.count[i]);
      const int64_t last = end - first < own ? end - first : own;
      for (int64_t b = begin > first ? begin - first : 0; b < last; b++) {
        const int64_t left = p.count[i] - b * block;
        dispatch(p.dtype[i], [&](auto zero) {
          using T = decltype(zero);
          partials[first + b] =
              sumOfSquares(static_cast<const T*>(buffers[i]) + b * block, left < block ? left : block);
        });
      }
      first += own;
    }
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; b++) total += partials[b];
  *static_cast<float*>(buffers[p.tensors]) = static_cast<float>(total);
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(squaredNorm, SquaredNormParams, run, workspaceBytes)

}  // namespace HADAL_ISA
}  // namespace hadal
