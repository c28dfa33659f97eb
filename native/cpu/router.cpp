#include "ops/router.h"

#include <cfloat>
#include <cmath>

#include "core/threads.h"
#include "cpu/simd.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Of `count` tokens.
void computeScores(const RouterParams& p, const float* logits, int64_t count, float* scores) {
  if (p.sigmoid)
    return forLanes(count * p.experts,
                    [&](int64_t i, auto part) { store(scores + i, part, sigmoid(load(logits + i, part))); });
  for (const float* end = logits + count * p.experts; logits < end; logits += p.experts, scores += p.experts) {
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
}

// Below that, waking a thread costs more than it saves: a score, or an id that is counted, takes about a nanosecond.
constexpr int64_t numbersPerThread = 65536;

// Choice score of what cannot be chosen: below that of any expert.
constexpr float none = -INFINITY;

// Workspace of a thread, for `lanes` tokens at a time: number i of a vector is token i's.
struct Scratch {
  Vec* choice;   // [E] choice scores
  Vec* groups;   // [G] group scores
  Vec* best;     // [K] the best choice scores, best first
  IVec* chosen;  // [K] whose they are
};

int64_t scratchVecs(const RouterParams& p) { return p.experts + p.groups + 2 * p.topK; }
int64_t forwardWorkspace(const RouterParams& p, int threads) { return scratchVecs(p) * threads * lanes * 4; }

Scratch scratchOf(const RouterParams& p, void* workspace, int thread) {
  Vec* vecs = static_cast<Vec*>(workspace) + thread * scratchVecs(p);
  Vec* best = vecs + p.experts + p.groups;
  return {vecs, vecs + p.experts, best, reinterpret_cast<IVec*>(best + p.topK)};
}

// Choice scores of `count` tokens, transposed; other lanes repeat the last token. NaN counts as the least number.
void gatherChoice(const RouterParams& p, const float* scores, const float* bias, int64_t count, Vec* choice) {
  forLanes(p.experts, [&](int64_t e, auto part) {
    Vec rows[lanes];
    for (int64_t i = 0; i < lanes; i++) {
      Vec c = load(scores + (i < count ? i : count - 1) * p.experts + e, part);
      if (bias) c += load(bias + e, part);
      rows[i] = select(c > -FLT_MAX, c, splat(-FLT_MAX));
    }
    transpose(rows);
    const int64_t left = p.experts - e;
    for (int64_t i = 0; i < (left < lanes ? left : lanes); i++) choice[e + i] = rows[i];
  });
}

// Of the experts, only those of the topGroups best groups stay; the group of the lower index on ties.
void keepBestGroups(const RouterParams& p, const Scratch& scratch) {
  const int64_t size = p.experts / p.groups;
  for (int64_t g = 0; g < p.groups; g++) {
    Vec first = splat(none), second = splat(none);
    for (int64_t e = g * size; e < (g + 1) * size; e++) {
      const Vec c = scratch.choice[e];
      second = max(second, min(first, c));
      first = max(first, c);
    }
    scratch.groups[g] = p.topTwoSum ? first + second : first;
  }
  for (int64_t g = 0; g < p.groups; g++) {
    const Vec score = scratch.groups[g];
    IVec better = {};  // groups before this one
    for (int64_t other = 0; other < p.groups; other++) {
      const Vec o = scratch.groups[other];
      better -= other < g ? (IVec)(o >= score) : (IVec)(o > score);
    }
    const IVec isKept = better < static_cast<int32_t>(p.topGroups);
    for (int64_t e = g * size; e < (g + 1) * size; e++)
      scratch.choice[e] = select(isKept, scratch.choice[e], splat(none));
  }
}

// Every expert in turn takes the place of the first one below it, and all from there on move up by one: no branches, and the
// lower index stays in front on ties.
void chooseExperts(const RouterParams& p, const Scratch& scratch) {
  for (int64_t k = 0; k < p.topK; k++) {
    scratch.best[k] = splat(none);
    scratch.chosen[k] = IVec{};
  }
  for (int64_t e = 0; e < p.experts; e++) {
    Vec score = scratch.choice[e];
    IVec expert = IVec{} + static_cast<int32_t>(e), isBetter = {};
    for (int64_t k = 0; k < p.topK; k++) {
      const Vec best = scratch.best[k];
      const IVec chosen = scratch.chosen[k];
      isBetter |= score > best;
      scratch.best[k] = select(isBetter, score, best);
      scratch.chosen[k] = (expert & isBetter) | (chosen & ~isBetter);
      score = select(isBetter, best, score);
      expert = (chosen & isBetter) | (expert & ~isBetter);
    }
  }
}

void forward(const RouterParams& p, void* const* buffers, RunContext& context) {
  const float* bias = static_cast<const float*>(buffers[1]);
  const int32_t* mask = static_cast<const int32_t*>(buffers[2]);
  const float factor = static_cast<float>(p.scalingFactor);
  parallelFor(p.tokens, context.threads, 1 + numbersPerThread / p.experts, [&](int64_t begin, int64_t end, int thread) {
    const Scratch scratch = scratchOf(p, context.workspace, thread);
    for (int64_t first = begin; first < end; first += lanes) {
      const int64_t count = end - first < lanes ? end - first : lanes;
      const float* logits = static_cast<const float*>(buffers[0]) + first * p.experts;
      float* scores = static_cast<float*>(buffers[5]) + first * p.experts;
      computeScores(p, logits, count, scores);
      gatherChoice(p, scores, bias, count, scratch.choice);
      if (p.topGroups < p.groups) keepBestGroups(p, scratch);
      chooseExperts(p, scratch);
      for (int64_t i = 0; i < count; i++) {
        float* weights = static_cast<float*>(buffers[3]) + (first + i) * p.topK;
        int32_t* experts = static_cast<int32_t*>(buffers[4]) + (first + i) * p.topK;
        const bool isRouted = !(mask && mask[first + i] < 0);
        float total = 1e-20f;
        for (int64_t k = 0; k < p.topK; k++) {
          experts[k] = isRouted ? scratch.chosen[k][i] : -1;
          weights[k] = isRouted ? scores[i * p.experts + experts[k]] : 0;
          total += weights[k];
        }
        for (int64_t k = 0; k < p.topK; k++) weights[k] = weights[k] * factor / (p.normalize ? total : 1.0f);
      }
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
  parallelFor(p.tokens, context.threads, 1 + numbersPerThread / p.experts, [&](int64_t begin, int64_t end, int) {
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
  parallelFor(p.shares, context.threads, 1 + numbersPerThread / (p.pairs + 1), [&](int64_t begin, int64_t end, int) {
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
