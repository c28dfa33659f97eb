import { cast } from '../../src/ops/elementwise.js';
import { expertCounts, type RouterOptions, router } from '../../src/ops/router.js';
import type { OpCase, Reference } from '../support/op-case.js';

type Rounding = (x: number) => number;

/** Positions of the k greatest, the greatest first, the lower position on ties. */
const best = (values: readonly number[], k: number) =>
  values
    .map((_, i) => i)
    .sort((a, b) => values[b]! - values[a]! || a - b)
    .slice(0, k);

/** Scores of one token. */
function scoresOf(logits: readonly number[], scoring: RouterOptions['scoring'], r: Rounding): number[] {
  if (scoring === 'sigmoid') return logits.map((v) => r(1 / r(1 + r(Math.exp(-v)))));
  const top = Math.max(...logits);
  const e = logits.map((v) => r(Math.exp(r(v - top))));
  const total = e.reduce((a, b) => r(a + b), 0);
  return e.map((v) => r(v / total));
}

/** Experts of one token by their choice scores: groups first, −∞ for what is not in the best ones. */
function chosenOf(choice: readonly number[], { topK, groups, topGroups, groupScore }: RouterOptions): number[] {
  const size = choice.length / groups;
  const groupScores = Array.from({ length: groups }, (_, g) => {
    const sorted = choice.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
    return groupScore === 'max' ? sorted[0]! : sorted[0]! + sorted[1]!;
  });
  const kept = best(groupScores, topGroups);
  const masked = choice.map((c, e) => (kept.includes(Math.floor(e / size)) ? c : Number.NEGATIVE_INFINITY));
  return best(masked, topK);
}

const routerReference =
  (T: number, E: number, options: RouterOptions): Reference =>
  ({ logits, bias, mask }, r) => {
    const outputs: number[][] = [[], [], []];
    for (let t = 0; t < T; t++) {
      const s = scoresOf([...logits!.subarray(t * E, (t + 1) * E)], options.scoring, r);
      const experts = chosenOf(
        s.map((v, e) => r(v + (bias?.[e] ?? 0))),
        options,
      );
      const total = experts.reduce((sum, e) => r(sum + s[e]!), 1e-20);
      const weights = experts.map((e) => r(r(options.normalize ? s[e]! / total : s[e]!) * options.scalingFactor));
      const isPadding = (mask?.[t] ?? 0) < 0;
      outputs[0]!.push(...weights.map((w) => (isPadding ? 0 : w)));
      outputs[1]!.push(...s);
      outputs[2]!.push(...experts.map((e) => (isPadding ? -1 : e)));
    }
    return outputs;
  };

interface Extras {
  bias?: boolean;
  mask?: boolean;
  /** Few different logits, so that ties decide. */
  ties?: boolean;
  bench?: boolean;
}

function routerCase(name: string, T: number, E: number, options: RouterOptions, extras: Extras = {}): OpCase {
  const { bias = false, mask = false, ties = false, bench = false } = extras;
  return {
    name: `${name} T${T} E${E} K${options.topK}`,
    inputs: {
      logits: { shape: [T, E], dtype: 'fp32', values: (rng) => (ties ? rng.integer(3) : 1.5 * rng.normal()) },
      ...(bias && { bias: { shape: [E], dtype: 'fp32', values: (rng) => 0.3 * rng.normal() } }),
      ...(mask && { mask: { shape: [T], dtype: 'int32', values: (_, i) => (i % 3 === 1 ? -1 : i) } }),
    },
    build({ logits, bias, mask }) {
      const { weights, scores, experts } = router(logits!, bias ?? null, mask ?? null, options);
      // The scores of padding pass no gradient, which no difference of the scores could show.
      return mask ? [weights] : [weights, scores, experts];
    },
    reference: (inputs, r) => routerReference(T, E, options)(inputs, r).slice(0, mask ? 1 : 3),
    differentiable: ties ? [] : ['logits'],
    dtypes: ['fp32'],
    ...(bench && { bench }),
  };
}

/** DeepSeek-V3. */
const v3: RouterOptions = {
  topK: 4,
  groups: 4,
  topGroups: 2,
  scoring: 'sigmoid',
  normalize: true,
  scalingFactor: 2.5,
  groupScore: 'top2sum',
};
/** DeepSeek-V2, 236B. */
const v2: RouterOptions = {
  topK: 3,
  groups: 4,
  topGroups: 2,
  scoring: 'softmax',
  normalize: false,
  scalingFactor: 16,
  groupScore: 'max',
};
/** DeepSeek-V2-Lite. */
const greedy: RouterOptions = { ...v2, groups: 1, topGroups: 1, scalingFactor: 1 };

function countsCase(shape: number[], groups: number, E: number): OpCase {
  return {
    name: `counts [${shape}] B${groups} E${E}`,
    inputs: { experts: { shape, dtype: 'int32', values: (_, i) => ((i * i) % (E + 1)) - 1 } },
    build: ({ experts }) => cast(expertCounts(experts!, { groups, experts: E }), 'int32'),
    reference({ experts }) {
      const counts = new Array<number>(groups * E).fill(0);
      experts!.forEach((e, i) => {
        if (e >= 0) counts[Math.floor((i * groups) / experts!.length) * E + e]!++;
      });
      return [counts];
    },
    dtypes: ['fp32'],
  };
}

export const cases: OpCase[] = [
  routerCase('V3', 9, 16, v3, { bias: true }),
  routerCase('V3 without bias', 3, 20, v3),
  routerCase('V3 with padding', 8, 16, v3, { bias: true, mask: true }),
  routerCase('V3 of 256', 2, 256, { ...v3, topK: 8, groups: 8, topGroups: 4 }, { bias: true }),
  routerCase('V3 of 480', 3, 480, { ...v3, topK: 10, groups: 20, topGroups: 5 }, { bias: true }),
  // More than a GPU's warp holds in registers, and more choices than it has lanes.
  routerCase('V3 of 600', 2, 600, { ...v3, topK: 40, groups: 40, topGroups: 7 }, { bias: true }),
  routerCase('ties of 600', 3, 600, { ...v2, topK: 35, groups: 6 }, { ties: true }),
  routerCase('V2 group-limited', 9, 16, v2),
  routerCase('V2 normalised', 5, 16, { ...v2, normalize: true }, { mask: true }),
  routerCase('V2 greedy', 5, 7, greedy),
  routerCase('all experts', 2, 3, greedy),
  routerCase('one expert', 2, 1, { ...greedy, topK: 1 }),
  routerCase('more tokens than a vector has', 37, 40, v3, { bias: true, mask: true }),
  routerCase('more tokens than a vector has', 33, 19, greedy),
  routerCase('ties', 37, 24, v3, { ties: true }),
  routerCase('ties', 37, 24, { ...greedy, topK: 7 }, { ties: true }),
  routerCase('no tokens', 0, 16, v3, { bias: true }),
  routerCase('V3', 2048, 256, { ...v3, topK: 8, groups: 8, topGroups: 4 }, { bias: true, bench: true }),
  routerCase('V3', 2048, 16, { ...v3, groups: 1, topGroups: 1 }, { bias: true, bench: true }),
  countsCase([7, 3], 1, 5),
  countsCase([4, 5, 2], 4, 7),
  countsCase([6, 1], 3, 1),
  countsCase([0, 2], 1, 3),
  countsCase([2500, 4], 2, 5000), // more than a GPU counts in shared memory, by more than one block
];
