import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { Graph } from '../../src/graph/graph.js';
import { square } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { expertCounts, type RouterOptions, router } from '../../src/ops/router.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './router.cases.js';

describeOp('router', cases);

const options: RouterOptions = {
  topK: 3,
  groups: 4,
  topGroups: 2,
  scoring: 'sigmoid',
  normalize: true,
  scalingFactor: 1,
  groupScore: 'top2sum',
};
const fp32 = (shape: number[], data: number[]) => ({ shape, dtype: 'fp32' as const, data });
const int32 = (shape: number[], data: number[]) => ({ shape, dtype: 'int32' as const, data });

describe('the choice', () => {
  const choose = async (logits: number[], chosen: Partial<RouterOptions> = {}, bias?: number[]) => {
    const inputs = { logits: fp32([1, 8], logits), ...(bias && { bias: fp32([8], bias) }) };
    const [experts, weights] = await runGraph(inputs, ({ logits, bias }) => {
      const routed = router(logits!, bias ?? null, null, { ...options, ...chosen });
      return [routed.experts, routed.weights];
    });
    return { experts: Array.from(experts!), weights: Array.from(weights!) };
  };

  it('goes to the lower index on ties', async () => {
    expect((await choose([0, 0, 0, 0, 0, 0, 0, 0])).experts).toEqual([0, 1, 2]);
    // Groups 1 and 3 win, 3 first; equal experts still go by their index.
    expect((await choose([0, 0, 1, 1, 0, 0, 1, 2])).experts).toEqual([7, 2, 3]);
  });

  it('keeps to the best groups', async () => {
    // Expert 0 has the best score, but group 0 neither by sum nor in the two best.
    expect((await choose([2, -9, 1.5, 1.4, 1.3, 1.2, 0, 0])).experts).toEqual([2, 3, 4]);
    expect((await choose([2, -9, 1.5, 1.4, 1.3, 1.2, 0, 0], { groupScore: 'max' })).experts).toEqual([0, 2, 3]);
  });

  it('is moved by the bias, the weights are not', async () => {
    const { experts, weights } = await choose([0, 0, 0, 0, 0, 0, 0, 0], {}, [0, 0, 0, 0, 0, 0, 5, 5]);
    expect(experts).toEqual([6, 7, 0]);
    weights.forEach((w) => {
      expect(w).toBeCloseTo(1 / 3, 6);
    });
  });

  it('names existing experts even when logits are NaN', async () => {
    const { experts } = await choose(new Array(8).fill(Number.NaN));
    expect(new Set(experts).size).toBe(3);
    expect(experts.every((e) => e >= 0 && e < 8)).toBe(true);
  });
});

it('padding tokens go nowhere and pass no gradient', async () => {
  const logits = fp32(
    [2, 8],
    Array.from({ length: 16 }, (_, i) => Math.sin(i)),
  );
  const [experts, weights, scores, dlogits] = await runGraph(
    { logits, mask: int32([2], [-1, 0]) },
    ({ logits, mask }) => {
      const routed = router(logits!, null, mask!, options);
      const [dlogits] = gradients(sum(square(routed.scores), [0, 1]), [logits!]);
      return [routed.experts, routed.weights, routed.scores, dlogits!];
    },
  );
  expect(Array.from(experts!.subarray(0, 3))).toEqual([-1, -1, -1]);
  expect(Array.from(weights!.subarray(0, 3))).toEqual([0, 0, 0]);
  expect(scores![0]).toBeCloseTo(0.5, 6);
  expect(Array.from(dlogits!.subarray(0, 8), Math.abs)).toEqual(new Array(8).fill(0));
  expect(dlogits!.subarray(8).every((v) => v > 0)).toBe(true);
});

it('counts refuse an expert that does not exist', async () => {
  const counts = runGraph({ experts: int32([2, 1], [1, 3]) }, ({ experts }) => [
    expertCounts(experts!, { groups: 1, experts: 3 }),
  ]);
  await expect(counts).rejects.toThrow(/expert-counts.*from -1 to 2, got 3/);
});

it.each([
  [{ groups: 3 }, /groups to divide the experts, got 3 groups with 8/],
  [{ topGroups: 5 }, /topGroups from 1 to 4, got 5/],
  [{ topK: 5 }, /topK from 1 to 4, got 5/],
  [{ groups: 8, topK: 2 }, /two experts or more/],
] as const)('refuses %o', (wrong, message) => {
  const logits = new Graph().input('logits', [2, 8], 'fp32');
  expectHadalError(() => router(logits, null, null, { ...options, ...wrong }), 'HADAL_ERR_SHAPE', message);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const logits = graph.input('logits', [2, 8], 'fp32');
  const seven = graph.input('seven', [7], 'fp32');
  expectHadalError(() => router(logits, seven, null, options), 'HADAL_ERR_SHAPE', /bias.*\[8\].*\[7\]/);
  expectHadalError(() => router(logits, null, seven, options), 'HADAL_ERR_DTYPE', /mask.*int32/);
  expectHadalError(
    () => router(graph.input('h', [2, 8], 'bf16'), null, null, options),
    'HADAL_ERR_DTYPE',
    /logits.*fp32/,
  );
});
