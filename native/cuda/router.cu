// Formulas, shapes, bytes: native/ops/router.h. A warp takes a token, whose scores stay in its registers: lane l has those of
// experts l, l + 32, … For so many experts that this is not possible, they are read again from where the scores are written.
//
// Choices are made by keys: the bits of a score, in an order of whole numbers, above those of the index turned round. The
// greatest key is the best score's with the least index, keys differ, and the next best one is the greatest below the last.
#include "cuda/launch.cuh"
// After launch.cuh, which makes its helpers run on the device.
#include <cfloat>
#include <cmath>

#include "ops/router.h"

namespace hadal {
namespace cuda {
namespace router_kernels {

using Key = uint64_t;

// Tokens a block takes at a time.
constexpr int tokensABlock = threads / warpSize;

__device__ __forceinline__ Key keyOf(float score, uint32_t index) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // −0 is 0
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(ordered) << 32 | ~index;
}
__device__ __forceinline__ uint32_t indexOf(Key key) { return ~static_cast<uint32_t>(key); }
__device__ __forceinline__ float scoreOf(Key key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

__device__ __forceinline__ Key warpMaxKey(Key key) {
  for (int width = warpSize / 2; width > 0; width /= 2) {
    const Key other = __shfl_xor_sync(wholeWarp, key, width);
    key = other > key ? other : key;
  }
  return key;
}

// Calls f(i, e) for every expert e of this lane, the i-th: i is a constant where `held`, the most a lane has, is given.
template <int held, class F>
__device__ __forceinline__ void forExperts(uint32_t experts, F&& f) {
  const uint32_t lane = static_cast<uint32_t>(laneId());
  if constexpr (held > 0) {
#pragma unroll
    for (int i = 0; i < held; i++) {
      const uint32_t e = lane + static_cast<uint32_t>(warpSize * i);
      if (e < experts) f(i, e);
    }
  } else {
    for (uint32_t e = lane; e < experts; e += warpSize) f(0, e);
  }
}

// This lane's numbers of a row, in registers, or in the row's memory where `held` is 0.
template <int held>
struct Numbers {
  float* row;
  float registers[held > 0 ? held : 1] = {};

  __device__ __forceinline__ float get(int i, uint32_t e) const {
    if constexpr (held > 0) return registers[i];
    return row[e];
  }
  __device__ __forceinline__ void set(int i, uint32_t e, float x) {
    if constexpr (held > 0)
      registers[i] = x;
    else
      row[e] = x;
  }
  __device__ __forceinline__ void finish(uint32_t experts) const {
    if constexpr (held > 0) forExperts<held>(experts, [&](int i, uint32_t e) { row[e] = registers[i]; });
  }
};

template <int held>
__device__ __forceinline__ void computeScores(const RouterParams& p, const float* logits, Numbers<held>& scores) {
  const uint32_t experts = static_cast<uint32_t>(p.experts);
  float most = -INFINITY, total = 0;
  forExperts<held>(experts, [&](int i, uint32_t e) {
    const float x = logits[e];
    scores.set(i, e, x);
    most = fmaxf(most, x);
  });
  if (p.sigmoid) {
    forExperts<held>(experts, [&](int i, uint32_t e) { scores.set(i, e, 1.0f / (1.0f + expf(-scores.get(i, e)))); });
  } else {
    most = warpMax(most);
    forExperts<held>(experts, [&](int i, uint32_t e) {
      const float x = expf(scores.get(i, e) - most);
      scores.set(i, e, x);
      total += x;
    });
    const float scale = 1.0f / warpSum(total);
    forExperts<held>(experts, [&](int i, uint32_t e) { scores.set(i, e, scores.get(i, e) * scale); });
  }
  scores.finish(experts);
}

// The greatest two scores of a group's experts over the warp, joined as the group's score.
__device__ __forceinline__ float groupScore(float first, float second, bool topTwoSum) {
  for (int width = warpSize / 2; width > 0; width /= 2) {
    const float otherFirst = __shfl_xor_sync(wholeWarp, first, width);
    const float otherSecond = __shfl_xor_sync(wholeWarp, second, width);
    second = fmaxf(fminf(first, otherFirst), fmaxf(second, otherSecond));
    first = fmaxf(first, otherFirst);
  }
  return topTwoSum ? first + second : first;
}

// Writes the keys of the groups and returns the least one of those that stay. key(i, e) is an expert's.
template <int held, class F>
__device__ __forceinline__ Key chooseGroups(const RouterParams& p, Key* groupKeys, F&& key) {
  const uint32_t experts = static_cast<uint32_t>(p.experts), groups = static_cast<uint32_t>(p.groups);
  const uint32_t size = experts / groups, lane = static_cast<uint32_t>(laneId());
  for (uint32_t g = 0; g < groups; g++) {
    float first = -INFINITY, second = -INFINITY;
    forExperts<held>(experts, [&](int i, uint32_t e) {
      if (e - g * size >= size) return;
      const float score = scoreOf(key(i, e));
      second = fmaxf(second, fminf(first, score));
      first = fmaxf(first, score);
    });
    const float score = groupScore(first, second, p.topTwoSum != 0);
    if (lane == 0) groupKeys[g] = keyOf(score, g);
  }
  __syncwarp();
  Key last = ~Key{0};
  for (int64_t j = 0; j < p.topGroups; j++) {
    Key best = 0;
    for (uint32_t g = lane; g < groups; g += warpSize) {
      const Key one = groupKeys[g];
      if (one < last && one > best) best = one;
    }
    last = warpMaxKey(best);
  }
  return last;
}

// Writes the chosen experts; lane l those numbered l, l + 32, …
template <int held>
__device__ __forceinline__ void chooseExperts(const RouterParams& p, const Numbers<held>& scores, const float* bias,
                                              Key* groupKeys, int32_t* chosen) {
  const uint32_t experts = static_cast<uint32_t>(p.experts), size = experts / static_cast<uint32_t>(p.groups);
  const auto ofScore = [&](int i, uint32_t e) {
    const float score = scores.get(i, e), choice = bias ? score + bias[e] : score;
    return keyOf(choice > -FLT_MAX ? choice : -FLT_MAX, e);  // NaN is the least number
  };
  Key keys[held > 0 ? held : 1] = {};
  if constexpr (held > 0) forExperts<held>(experts, [&](int i, uint32_t e) { keys[i] = ofScore(i, e); });
  Key leastGroup = 0;
  const auto keyAt = [&](int i, uint32_t e) -> Key {
    if constexpr (held > 0) return keys[i];
    return leastGroup == 0 || groupKeys[e / size] >= leastGroup ? ofScore(i, e) : 0;
  };
  if (p.topGroups < p.groups) {
    leastGroup = chooseGroups<held>(p, groupKeys, keyAt);
    if constexpr (held > 0)
      forExperts<held>(experts, [&](int i, uint32_t e) {
        if (groupKeys[e / size] < leastGroup) keys[i] = 0;
      });
  }
  Key last = ~Key{0};
  for (int64_t k = 0; k < p.topK; k++) {
    Key best = 0;
    forExperts<held>(experts, [&](int i, uint32_t e) {
      const Key key = keyAt(i, e);
      if (key < last && key > best) best = key;
    });
    last = warpMaxKey(best);
    if (k % warpSize == laneId()) chosen[k] = static_cast<int32_t>(indexOf(last));
  }
}

template <int held>
__device__ void forward(RouterParams p, const float* logits, const float* bias, const int32_t* mask, float* weights,
                        int32_t* chosen, float* scoreRows, Key* groupKeys) {
  const int lane = laneId();
  const float factor = static_cast<float>(p.scalingFactor);
  const int64_t step = static_cast<int64_t>(gridDim.x) * tokensABlock;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * tokensABlock + warpId(); t < p.tokens; t += step) {
    Numbers<held> scores{scoreRows + t * p.experts};
    computeScores(p, logits + t * p.experts, scores);
    float* const w = weights + t * p.topK;
    int32_t* const experts = chosen + t * p.topK;
    if (mask && mask[t] < 0) {
      for (int64_t k = lane; k < p.topK; k += warpSize) experts[k] = -1, w[k] = 0;
      continue;
    }
    chooseExperts(p, scores, bias, groupKeys + t * p.groups, experts);
    __syncwarp();  // scores of the chosen are other lanes'
    float total = 0;
    for (int64_t k = lane; k < p.topK; k += warpSize) {
      w[k] = scores.row[experts[k]];
      total += w[k];
    }
    total = p.normalize ? warpSum(total) + 1e-20f : 1.0f;
    for (int64_t k = lane; k < p.topK; k += warpSize) w[k] = w[k] * factor / total;
  }
}

// ds = dscores + (for the chosen) dweights · f, where normalised f/S · (dweights − Σ_j dweights_j · s_j / S), S = Σ s + 1e-20;
// dlogits = s · (ds − Σ s·ds) for softmax, ds · s · (1 − s) for sigmoid.
template <int held>
__device__ __forceinline__ void addChosen(const RouterBackwardParams& p, const float* dweights, const int32_t* chosen,
                                          const float* s, Numbers<held>& ds) {
  const uint32_t experts = static_cast<uint32_t>(p.experts);
  const int lane = laneId();
  const float factor = static_cast<float>(p.scalingFactor);
  float total = 0, dot = 0;
  if (p.normalize) {
    for (int64_t k = lane; k < p.topK; k += warpSize) {
      const float score = s[chosen[k]];
      total += score;
      dot += dweights[k] * score;
    }
    total = warpSum(total) + 1e-20f;
    dot = warpSum(dot);
  }
  for (int64_t first = 0; first < p.topK; first += warpSize) {
    uint32_t e = 0;
    float d = 0;
    if (first + lane < p.topK) {
      e = static_cast<uint32_t>(chosen[first + lane]);
      d = dweights[first + lane];
      d = p.normalize ? factor * (d - dot / total) / total : factor * d;
    }
    const int count = static_cast<int>(min(static_cast<int64_t>(warpSize), p.topK - first));
    for (int k = 0; k < count; k++) {
      const uint32_t expert = __shfl_sync(wholeWarp, e, k);
      const float added = __shfl_sync(wholeWarp, d, k);
      if constexpr (held > 0)
        forExperts<held>(experts, [&](int i, uint32_t own) {
          if (own == expert) ds.registers[i] += added;
        });
      else if (expert % warpSize == static_cast<uint32_t>(lane))
        ds.row[expert] += added;
    }
  }
}

template <int held>
__device__ void backward(RouterBackwardParams p, const float* dweights, const float* dscores, const int32_t* chosen,
                         const float* scores, const int32_t* mask, float* dlogits, FaultSite faults) {
  const uint32_t experts = static_cast<uint32_t>(p.experts);
  const int64_t step = static_cast<int64_t>(gridDim.x) * tokensABlock;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * tokensABlock + warpId(); t < p.tokens; t += step) {
    const int32_t* const ids = chosen + t * p.topK;
    const float* const s = scores + t * p.experts;
    Numbers<held> ds{dlogits + t * p.experts};
    bool isRouted = !(mask && mask[t] < 0);
    if (isRouted) {
      bool isKnown = true;
      for (int64_t k = laneId(); k < p.topK; k += warpSize) {
        if (ids[k] >= 0 && ids[k] < p.experts) continue;
        faults.report(ids[k]);
        isKnown = false;
      }
      isRouted = __all_sync(wholeWarp, isKnown);
    }
    const float* const given = isRouted && dscores ? dscores + t * p.experts : nullptr;
    forExperts<held>(experts, [&](int i, uint32_t e) { ds.set(i, e, given ? given[e] : 0); });
    if (isRouted) {
      if (dweights) addChosen(p, dweights + t * p.topK, ids, s, ds);
      if (p.sigmoid) {
        forExperts<held>(experts, [&](int i, uint32_t e) { ds.set(i, e, ds.get(i, e) * s[e] * (1.0f - s[e])); });
      } else {
        float dot = 0;
        forExperts<held>(experts, [&](int i, uint32_t e) { dot += s[e] * ds.get(i, e); });
        dot = warpSum(dot);
        forExperts<held>(experts, [&](int i, uint32_t e) { ds.set(i, e, s[e] * (ds.get(i, e) - dot)); });
      }
    }
    ds.finish(experts);
  }
}

// Calls f with how many experts a lane holds: V2-Lite has 64, V3 256, others up to 512; a row of more is left in memory.
template <class F>
void withHeld(int64_t experts, F&& f) {
  if (experts <= 2 * warpSize) return f(std::integral_constant<int, 2>{});
  if (experts <= 8 * warpSize) return f(std::integral_constant<int, 8>{});
  if (experts <= 16 * warpSize) return f(std::integral_constant<int, 16>{});
  f(std::integral_constant<int, 0>{});
}

// Keys of the groups of every token.
int64_t forwardWorkspace(const RouterParams& p, int) {
  return p.topGroups < p.groups ? p.tokens * p.groups * static_cast<int64_t>(sizeof(Key)) : 0;
}

void runForward(const RouterParams& p, void* const* b, RunContext& context) {
  withHeld(p.experts, [&](auto held) {
    launch<forward<held.value>, threads>(
        context, {.x = blocksFor(p.tokens, tokensABlock)}, p, static_cast<const float*>(b[0]),
        static_cast<const float*>(b[1]), static_cast<const int32_t*>(b[2]), static_cast<float*>(b[3]),
        static_cast<int32_t*>(b[4]), static_cast<float*>(b[5]), static_cast<Key*>(context.workspace));
  });
}

int64_t noWorkspace(const RouterBackwardParams&, int) { return 0; }

void runBackward(const RouterBackwardParams& p, void* const* b, RunContext& context) {
  withHeld(p.experts, [&](auto held) {
    launch<backward<held.value>, threads>(
        context, {.x = blocksFor(p.tokens, tokensABlock)}, p, static_cast<const float*>(b[0]),
        static_cast<const float*>(b[1]), static_cast<const int32_t*>(b[2]), static_cast<const float*>(b[3]),
        static_cast<const int32_t*>(b[4]), static_cast<float*>(b[5]), faultsOf(context));
  });
}

void explainBackward(const RouterBackwardParams& p, const Fault& fault, RunContext& context) {
  context.fail("[router] expected experts from 0 to %lld, got %d", static_cast<long long>(p.experts - 1),
               static_cast<int>(fault.numbers[0]));
}

}  // namespace router_kernels

// ---- Counts: in whole numbers in the place of the result, which become fp32 last: fp32 stops counting at 2^24.
namespace expert_counts {

// Ids a block counts: 16 loads a thread, beside which adding its counts to those of all is little.
constexpr int64_t pairsABlock = 16 * threads;
// So many experts are counted in shared memory first: 16 KiB, with which blocks still fill a multiprocessor.
constexpr int64_t mostShared = 4096;

__device__ void clear(int64_t count, int32_t* counts) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) counts[i] = 0;
}

// Additions of whole numbers give the same in any order.
__device__ void count(ExpertCountsParams p, int64_t parts, const int32_t* experts, int32_t* counts, FaultSite faults) {
  const bool isShared = p.experts <= mostShared;
  for (int64_t item = blockIdx.x; item < p.shares * parts; item += gridDim.x) {
    const int64_t share = item / parts, begin = item % parts * pairsABlock, end = min(begin + pairsABlock, p.pairs);
    int32_t* const whole = counts + share * p.experts;
    int32_t* const own = isShared ? &shared<int32_t>() : whole;
    if (isShared) {
      for (int64_t e = threadIdx.x; e < p.experts; e += threads) own[e] = 0;
      __syncthreads();
    }
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
      const int32_t e = experts[share * p.pairs + i];
      if (e >= 0 && e < p.experts)
        atomicAdd(&own[e], 1);
      else if (e != -1)
        faults.report(e);
    }
    if (!isShared) continue;
    __syncthreads();
    for (int64_t e = threadIdx.x; e < p.experts; e += threads)
      if (own[e] != 0) atomicAdd(&whole[e], own[e]);
    __syncthreads();
  }
}

__device__ void toFloats(int64_t count, int32_t* counts) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step)
    counts[i] = __float_as_int(static_cast<float>(counts[i]));
}

int64_t noWorkspace(const ExpertCountsParams&, int) { return 0; }

void run(const ExpertCountsParams& p, void* const* b, RunContext& context) {
  int32_t* const counts = static_cast<int32_t*>(b[1]);
  const int64_t size = p.shares * p.experts, parts = (p.pairs + pairsABlock - 1) / pairsABlock;
  launch<clear, threads>(context, {.x = blocksFor(size, threads)}, size, counts);
  launch<count, threads>(context,
                         {.x = blocksFor(p.shares * parts, 1),
                          .sharedBytes = p.experts <= mostShared ? static_cast<size_t>(p.experts) * 4 : 0},
                         p, parts, static_cast<const int32_t*>(b[0]), counts, faultsOf(context));
  launch<toFloats, threads>(context, {.x = blocksFor(size, threads)}, size, counts);
}

void explain(const ExpertCountsParams& p, const Fault& fault, RunContext& context) {
  context.fail("[expert-counts] expected experts from -1 to %lld, got %d", static_cast<long long>(p.experts - 1),
               static_cast<int>(fault.numbers[0]));
}

}  // namespace expert_counts

HADAL_KERNEL_WITH_WORKSPACE(router, RouterParams, router_kernels::runForward, router_kernels::forwardWorkspace)
HADAL_KERNEL_WITH_FAULTS(routerBackward, RouterBackwardParams, router_kernels::runBackward, router_kernels::noWorkspace,
                         router_kernels::explainBackward)
HADAL_KERNEL_WITH_FAULTS(expertCounts, ExpertCountsParams, expert_counts::run, expert_counts::noWorkspace,
                         expert_counts::explain)

}  // namespace cuda
}  // namespace hadal
