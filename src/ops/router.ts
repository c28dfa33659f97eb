// Choice of experts: DeepSeek-V2 (softmax; arXiv:2405.04434 §2.2) and V3 (sigmoid with a correction bias; arXiv:2412.19437
// eq. 12–16). Formulas: native/ops/router.h. T tokens (all dims but the last), E experts, K choices a token.
import { HadalError } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { add, divide, equal, greaterEqual, multiply, subtract, where } from './elementwise.js';
import { sum } from './reduce.js';
import { reshape } from './shape.js';
import { iota } from './sources.js';

/** How experts are chosen and weighted. */
export interface RouterOptions {
  /** Experts a token. */
  topK: number;
  /** Equal groups the experts are split into; 1: no groups. */
  groups: number;
  /** Groups that stay in the choice. */
  topGroups: number;
  scoring: 'softmax' | 'sigmoid';
  /** Divide the weights by their sum + 1e-20. */
  normalize: boolean;
  /** Factor on the weights. */
  scalingFactor: number;
  /** A group's score: its best expert's (V2), or the sum of its two best experts' (V3). */
  groupScore: 'max' | 'top2sum';
}

type RouterAttrs = Readonly<RouterOptions>;

const kernelParams = (scores: Value, attrs: RouterAttrs) => {
  const experts = scores.shape.at(-1) as number;
  return {
    tokens: scores.size / experts,
    experts,
    topK: attrs.topK,
    groups: attrs.groups,
    topGroups: attrs.topGroups,
    sigmoid: Number(attrs.scoring === 'sigmoid'),
    normalize: Number(attrs.normalize),
    topTwoSum: Number(attrs.groupScore === 'top2sum'),
    scalingFactor: attrs.scalingFactor,
  };
};

function expectOptions(experts: number, { topK, groups, topGroups, groupScore }: RouterAttrs): void {
  const fail = (expected: string, got: string) => {
    throw new HadalError('HADAL_ERR_SHAPE', `[router] expected ${expected}, got ${got} with ${experts} experts`);
  };
  const groupSize = experts / groups;
  if (!(groups >= 1 && Number.isInteger(groupSize))) fail('groups to divide the experts', `${groups} groups`);
  if (!(topGroups >= 1 && topGroups <= groups)) fail(`topGroups from 1 to ${groups}`, `${topGroups}`);
  if (!(topK >= 1 && topK <= groupSize * topGroups)) fail(`topK from 1 to ${groupSize * topGroups}`, `${topK}`);
  if (groupScore === 'top2sum' && groupSize < 2) fail('groups of two experts or more for top2sum', `${groups} groups`);
}

const routerOp = defineOp<
  RouterAttrs,
  [logits: Value, bias: Value | null, mask: Value | null],
  [weights: Value, experts: Value, scores: Value]
>({
  name: 'router',
  precise: [0],
  infer([logits, bias, mask], attrs) {
    expectDType('router', 'logits', logits, 'fp32');
    const tokens = logits.shape.slice(0, -1);
    const experts = logits.shape.at(-1) ?? 0;
    expectOptions(experts, attrs);
    if (bias) {
      expectDType('router', 'bias', bias, 'fp32');
      expectShape('router', 'bias', bias, [experts]);
    }
    if (mask) {
      expectDType('router', 'mask', mask, 'int32');
      expectShape('router', 'mask', mask, tokens);
    }
    return [
      { shape: [...tokens, attrs.topK], dtype: 'fp32' },
      { shape: [...tokens, attrs.topK], dtype: 'int32' },
      { shape: logits.shape, dtype: 'fp32' },
    ];
  },
  vjp({ inputs: [, , mask], outputs: [, experts, scores], gradients: [dweights, , dscores], attrs }) {
    if (!dweights && !dscores) return [null, null, null];
    return [routerBackwardOp.apply([dweights, dscores, experts, scores, mask], attrs)[0], null, null];
  },
  cost: ([logits], [weights, experts, scores]) => ({
    flops: 14 * logits.size,
    bytesRead: logits.bytes,
    bytesWritten: weights.bytes + experts.bytes + scores.bytes,
  }),
  kernel: ([logits, bias, mask], outputs, attrs) => ({
    kernel: 'router',
    params: kernelParams(logits, attrs),
    buffers: [logits, bias, mask, ...outputs],
  }),
});

const routerBackwardOp = defineOp<
  RouterAttrs,
  [dweights: Value | null, dscores: Value | null, experts: Value, scores: Value, mask: Value | null],
  [dlogits: Value]
>({
  name: 'router-backward',
  infer: ([, , , scores]) => [{ shape: scores.shape, dtype: 'fp32' }],
  lower([dweights, dscores, experts, scores, mask], attrs) {
    const last = scores.shape.length - 1;
    const tokens = scores.shape.slice(0, last);
    const count = scores.shape[last] as number;
    let ds = dscores;
    if (dweights) {
      // [..., K, E], 1 where choice k is expert e
      const oneHot = equal(reshape(experts, [...experts.shape, 1]), iota(scores.node.graph, count));
      const chosen = sum(multiply(oneHot, reshape(scores, [...tokens, 1, count])), [last + 1]);
      let dchosen = dweights;
      if (attrs.normalize) {
        const total = add(sum(chosen, [last], true), 1e-20);
        const dot = sum(multiply(dweights, chosen), [last], true);
        dchosen = divide(subtract(dweights, divide(dot, total)), total);
      }
      const scaled = multiply(dchosen, attrs.scalingFactor);
      const scattered = sum(multiply(oneHot, reshape(scaled, [...scaled.shape, 1])), [last]);
      ds = ds ? add(ds, scattered) : scattered;
    }
    const gradient = ds as Value;
    const dlogits =
      attrs.scoring === 'sigmoid'
        ? multiply(gradient, multiply(scores, subtract(1, scores)))
        : multiply(scores, subtract(gradient, sum(multiply(scores, gradient), [last], true)));
    return [mask ? where(greaterEqual(reshape(mask, [...tokens, 1]), 0), dlogits, 0) : dlogits];
  },
  cost: ([dweights, dscores, , scores], [dlogits]) => ({
    flops: 5 * scores.size,
    bytesRead: (dweights?.bytes ?? 0) + (dscores?.bytes ?? 0) + scores.bytes,
    bytesWritten: dlogits.bytes,
  }),
  kernel: ([dweights, dscores, experts, scores, mask], [dlogits], attrs) => ({
    kernel: 'router-backward',
    params: kernelParams(scores, attrs),
    buffers: [dweights, dscores, experts, scores, mask, dlogits],
  }),
});

/**
 * Chooses experts for each token.
 *
 * @param logits - [..., E], fp32
 * @param bias - [E], fp32: added to the scores for the choice only; no gradient flows to it
 * @param mask - [...], int32: a token below 0 (padding) gets experts −1 and weights 0, its scores pass no gradient
 * @returns weights [..., K] fp32; experts [..., K] int32, best first, the lower index on ties; scores [..., E] fp32,
 * softmax or sigmoid of the logits
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function router(
  logits: Value,
  bias: Value | null,
  mask: Value | null,
  options: RouterOptions,
): { weights: Value; experts: Value; scores: Value } {
  const [weights, experts, scores] = routerOp.apply([logits, bias, mask], options);
  return { weights, experts, scores };
}

type ExpertCountsAttrs = { groups: number; experts: number };

const expertCountsOp = defineOp<ExpertCountsAttrs, [experts: Value], [counts: Value]>({
  name: 'expert-counts',
  infer([experts], attrs) {
    expectDType('expert-counts', 'experts', experts, 'int32');
    if (!(attrs.groups >= 1 && Number.isInteger(experts.size / attrs.groups))) {
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[expert-counts] expected experts that split into ${attrs.groups} equal groups, got ${experts.type}`,
      );
    }
    return [{ shape: [attrs.groups, attrs.experts], dtype: 'fp32' }];
  },
  vjp: () => [null],
  kernel: ([experts], [counts], attrs) => ({
    kernel: 'expert-counts',
    params: { shares: attrs.groups, pairs: experts.size / attrs.groups, experts: attrs.experts },
    buffers: [experts, counts],
  }),
});

/**
 * How often each expert was chosen; no gradient.
 *
 * @param experts - int32, any shape, −1 (not counted) … E − 1; split into `groups` (B) equal runs, for example sequences
 * @returns [B, E], fp32
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function expertCounts(experts: Value, options: { groups: number; experts: number }): Value {
  return expertCountsOp.apply([experts], options)[0];
}
