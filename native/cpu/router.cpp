#include "ops/router.h"

#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// The `most` best of a stream of (value, index), best first; the earlier one on ties. Always `most` long in the end when
// as many were offered, even among NaNs.
struct Best {
  float* values;
  int32_t* indices;
  int64_t most;
  int64_t count = 0;

  HADAL_INLINE void offer(float value, int32_t index) {
    if (count == most && !(value > values[most - 1])) return;
    int64_t at = count < most ? count++ : most - 1;
    for (; at > 0 && value > values[at - 1]; at--) {
      values[at] = values[at - 1];
      indices[at] = indices[at - 1];
    }
    values[at] = value;
    indices[at] = index;
  }
};

void computeScores(const RouterParams& p, const float* logits, float* scores) {
  if (p.sigmoid) {
    forLanes(p.experts, [&](int64_t i, auto part) { store(scores + i, part, sigmoid(load(logits + i, part))); });
    return;
  }
  Vec most = splat(-INFINITY), total = {};
  forLanes(p.experts, [&](int64_t i, auto part) { most = max(most, load(logits + i, part, -INFINITY)); });
  const float top = maximum(most);
  forLanes(p.experts, [&](int64_t i, auto part) {
    const Vec e = exp(load(logits + i, part, -INFINITY) - top);
    total += e;
    store(scores + i, part, e);
  });
  const float scale = 1.0f / sum(total);
  forLanes(p.experts, [&](int64_t i, auto part) { store(scores + i, part, load(scores + i, part) * scale); });
}

// Workspace of a thread.
struct Scratch {
  float* choice;        // [E]
  float* groupScores;   // [topGroups]
  int32_t* groupIds;    // [topGroups]
  float* expertScores;  // [K]
};

int64_t scratchNumbers(const RouterParams& p) { return p.experts + 2 * p.topGroups + p.topK; }
int64_t forwardWorkspace(const RouterParams& p, int threads) { return scratchNumbers(p) * threads * 4; }

void chooseExperts(const RouterParams& p, const Scratch& scratch, int32_t* chosen) {
  const int64_t size = p.experts / p.groups;
  Best groups{scratch.groupScores, scratch.groupIds, p.topGroups};
  for (int64_t g = 0; g < p.groups; g++) {
    float first = -INFINITY, second = -INFINITY;
    for (int64_t e = g * size; e < (g + 1) * size; e++) {
      const float c = scratch.choice[e];
      second = c > first ? first : c > second ? c : second;
      first = c > first ? c : first;
    }
    groups.offer(p.topTwoSum ? first + second : first, static_cast<int32_t>(g));
  }
  // In ascending order, so that ties go to the lower index whatever the order of the groups.
  for (int64_t i = 1; i < p.topGroups; i++)
    for (int64_t j = i; j > 0 && groups.indices[j] < groups.indices[j - 1]; j--) {
      const int32_t swapped = groups.indices[j];
      groups.indices[j] = groups.indices[j - 1];
      groups.indices[j - 1] = swapped;
    }
  Best experts{scratch.expertScores, chosen, p.topK};
  for (int64_t i = 0; i < p.topGroups; i++)
    for (int64_t e = groups.indices[i] * size; e < (groups.indices[i] + 1) * size; e++)
      experts.offer(scratch.choice[e], static_cast<int32_t>(e));
}

void forward(const RouterParams& p, void* const* buffers, RunContext& context) {
  const float* logits = static_cast<const float*>(buffers[0]);
  const float* bias = static_cast<const float*>(buffers[1]);
  const int32_t* mask = static_cast<const int32_t*>(buffers[2]);
  const float factor = static_cast<float>(p.scalingFactor);
  parallelFor(p.tokens, context.threads, 1 + 4096 / p.experts, [&](int64_t begin, int64_t end, int thread) {
    float* numbers = static_cast<float*>(context.workspace) + thread * scratchNumbers(p);
    const Scratch scratch{numbers, numbers + p.experts, reinterpret_cast<int32_t*>(numbers + p.experts + p.topGroups),
                          numbers + p.experts + 2 * p.topGroups};
    for (int64_t t = begin; t < end; t++) {
      float* weights = static_cast<float*>(buffers[3]) + t * p.topK;
      int32_t* experts = static_cast<int32_t*>(buffers[4]) + t * p.topK;
      float* scores = static_cast<float*>(buffers[5]) + t * p.experts;
      computeScores(p, logits + t * p.experts, scores);
      if (mask && mask[t] < 0) {
        for (int64_t k = 0; k < p.topK; k++) {
          weights[k] = 0;
          experts[k] = -1;
        }
        continue;
      }
      for (int64_t e = 0; e < p.experts; e++) scratch.choice[e] = bias ? scores[e] + bias[e] : scores[e];
      chooseExperts(p, scratch, experts);
      float total = 1e-20f;
      for (int64_t k = 0; k < p.topK; k++) total += scores[experts[k]];
      for (int64_t k = 0; k < p.topK; k++) weights[k] = scores[experts[k]] * factor / (p.normalize ? total : 1.0f);
    }
  });
}

// ds = dscores + (for the chosen) dweights · f, where normalised f/S · (dweights − Σ_j dweights_j · s_j / S), S = Σ s + 1e-20;
// dlogits = s · (ds − Σ s·ds) for softmax, ds · s · (1 − s) for sigmoid. ds is gathered in the place of dlogits.
void backwardToken(const RouterParams& p, const float* dweights, const int32_t* experts, const float* s, float* d) {
  if (dweights) {
    float total = 1e-20f, dot = 0;
    for (int64_t k = 0; k < p.topK; k++) {
      total += s[experts[k]];
      dot += dweights[k] * s[experts[k]];
    }
    const float factor = static_cast<float>(p.scalingFactor);
    for (int64_t k = 0; k < p.topK; k++)
      d[experts[k]] += p.normalize ? factor * (dweights[k] - dot / total) / total : factor * dweights[k];
  }
  if (p.sigmoid) {
    forLanes(p.experts, [&](int64_t i, auto part) {
      const Vec v = load(s + i, part);
      store(d + i, part, load(d + i, part) * v * (1.0f - v));
    });
    return;
  }
  Vec dots = {};
  forLanes(p.experts, [&](int64_t i, auto part) { dots += load(s + i, part) * load(d + i, part); });
  const float dot = sum(dots);
  forLanes(p.experts, [&](int64_t i, auto part) { store(d + i, part, load(s + i, part) * (load(d + i, part) - dot)); });
}

void backward(const RouterBackwardParams& p, void* const* buffers, RunContext& context) {
  const float* dweights = static_cast<const float*>(buffers[0]);
  const float* dscores = static_cast<const float*>(buffers[1]);
  const int32_t* experts = static_cast<const int32_t*>(buffers[2]);
  const float* scores = static_cast<const float*>(buffers[3]);
  const int32_t* mask = static_cast<const int32_t*>(buffers[4]);
  const size_t rowBytes = static_cast<size_t>(p.experts) * 4;
  parallelFor(p.tokens, context.threads, 1 + 4096 / p.experts, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      float* d = static_cast<float*>(buffers[5]) + t * p.experts;
      bool isRouted = !(mask && mask[t] < 0);
      for (int64_t k = 0; k < p.topK; k++) {
        const int32_t e = experts[t * p.topK + k];
        if (isRouted && (e < 0 || e >= p.experts)) {
          context.fail("[router] expected experts from 0 to %lld, got %d", static_cast<long long>(p.experts - 1), e);
          isRouted = false;
        }
      }
      if (dscores && isRouted)
        std::memcpy(d, dscores + t * p.experts, rowBytes);
      else
        std::memset(d, 0, rowBytes);
      if (isRouted)
        backwardToken(p, dweights ? dweights + t * p.topK : nullptr, experts + t * p.topK, scores + t * p.experts, d);
    }
  });
}

void counts(const ExpertCountsParams& p, void* const* buffers, RunContext& context) {
  const int32_t* experts = static_cast<const int32_t*>(buffers[0]);
  parallelFor(p.shares, context.threads, 1 + 4096 / (p.pairs + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t share = begin; share < end; share++) {
      // Counted in whole numbers in the place of the result: fp32 stops counting at 2^24.
      int32_t* whole = static_cast<int32_t*>(buffers[1]) + share * p.experts;
      std::memset(whole, 0, static_cast<size_t>(p.experts) * 4);
      for (int64_t i = share * p.pairs; i < (share + 1) * p.pairs; i++) {
        if (experts[i] >= 0 && experts[i] < p.experts)
          whole[experts[i]]++;
        else if (experts[i] != -1)
          context.fail("[expert-counts] expected experts from -1 to %lld, got %d",
                       static_cast<long long>(p.experts - 1), experts[i]);
      }
      float* out = static_cast<float*>(buffers[1]) + share * p.experts;
      for (int64_t e = 0; e < p.experts; e++) {
        int32_t count;
        std::memcpy(&count, whole + e, 4);
        out[e] = static_cast<float>(count);
      }
    }
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(router, RouterParams, forward, forwardWorkspace)
HADAL_KERNEL(routerBackward, RouterBackwardParams, backward)
HADAL_KERNEL(expertCounts, ExpertCountsParams, counts)

}  // namespace HADAL_ISA
}  // namespace hadal
