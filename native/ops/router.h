// Choice of experts for each token.
//   softmax (DeepSeek-V2, arXiv:2405.04434 §2.2):  s = softmax(logits);  sigmoid (V3, arXiv:2412.19437 eq. 12–16):  s = σ(logits)
//   choice score c = s + bias; of the G groups of E/G experts the `topGroups` with the best group score stay (largest c, or
//   the sum of the two largest); of their experts the topK with the largest c are taken, best first, the lower index on ties.
//   weight = s · scalingFactor, divided by (Σ_chosen s + 1e-20) first where `normalize`
// T tokens, E experts, K = topK. logits_TE, weights_TK, scores_TE, bias_E and gradients fp32; experts_TK, mask_T int32.
// A token with mask < 0 gets experts −1 and weights 0, and passes no gradient.
// Bytes: forward reads 4·T·E, writes 4·T·E + 8·T·K; backward reads 8·T·E + 8·T·K, writes 4·T·E.
//
// expert-counts: counts_BE fp32, how many of the expert ids of each of B equal shares of experts name each expert; −1: none.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct RouterParams {
  int64_t tokens, experts, topK, groups, topGroups;
  int64_t sigmoid;    // 0: softmax
  int64_t normalize;  // 0: as they are
  int64_t topTwoSum;  // 0: a group's score is its maximum
  double scalingFactor;

  const char* check() const {
    int64_t size;
    if (tokens < 0 || experts < 1 || experts > INT32_MAX) return "expected tokens >= 0 and experts >= 1";
    if (__builtin_mul_overflow(tokens, experts * 4, &size)) return "expected tokens * experts to fit in 64 bits";
    if (groups < 1 || experts % groups != 0) return "expected groups to divide experts";
    if (topGroups < 1 || topGroups > groups) return "expected topGroups from 1 to groups";
    if (topK < 1 || topK > experts / groups * topGroups)
      return "expected topK from 1 to the experts of topGroups groups";
    if (topTwoSum && experts / groups < 2) return "expected groups of two experts or more to sum two scores";
    return nullptr;
  }
  int64_t perExpert() const { return tokens * experts * 4; }
  int64_t perChoice() const { return tokens * topK * 4; }
  BufferList buffers() const {
    return BufferList()
        .in("logits", perExpert())
        .optional("bias", experts * 4)
        .optional("mask", tokens * 4)
        .out("weights", perChoice())
        .out("experts", perChoice())
        .out("scores", perExpert());
  }
};

// experts and scores are the forward's outputs; dweights or dscores null: no gradient from there.
struct RouterBackwardParams : RouterParams {
  BufferList buffers() const {
    return BufferList()
        .optional("dweights", perChoice())
        .optional("dscores", perExpert())
        .in("experts", perChoice())
        .in("scores", perExpert())
        .optional("mask", tokens * 4)
        .out("dlogits", perExpert());
  }
};

struct ExpertCountsParams {
  int64_t shares, pairs, experts;  // pairs: expert ids a share

  const char* check() const {
    int64_t size;
    if (shares < 0 || pairs < 0 || experts < 1 || experts > INT32_MAX)
      return "expected shares >= 0, pairs >= 0 and experts >= 1";
    if (pairs > INT32_MAX) return "expected fewer than 2^31 ids a share";
    if (__builtin_mul_overflow(shares, pairs * 4, &size) || __builtin_mul_overflow(shares, experts * 4, &size))
      return "expected sizes to fit in 64 bits";
    return nullptr;
  }
  BufferList buffers() const {
    return BufferList().in("experts", shares * pairs * 4).out("counts", shares * experts * 4);
  }
};

HADAL_CONTRACT(router, "router", RouterParams, tokens, experts, topK, groups, topGroups, sigmoid, normalize, topTwoSum,
               scalingFactor);
HADAL_CONTRACT(routerBackward, "router-backward", RouterBackwardParams, tokens, experts, topK, groups, topGroups,
               sigmoid, normalize, topTwoSum, scalingFactor);
HADAL_CONTRACT(expertCounts, "expert-counts", ExpertCountsParams, shares, pairs, experts);

}  // namespace
}  // namespace hadal
