import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { type AdamwInputs, type AdamwOptions, adamw } from '../../src/ops/adamw.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './adamw.cases.js';

describeOp('adamw', cases);

/** What adamw-golden.py wrote: lists over steps of lists over elements. */
interface Golden {
  options: AdamwOptions & { lr: number };
  gradScale: number;
  param: number[];
  grads: number[][];
  params: number[][];
  m: number[][];
  v: number[][];
}

it('takes the steps that torch.optim.AdamW takes', async () => {
  const golden = JSON.parse(readFileSync(new URL('./adamw-golden.json', import.meta.url), 'utf8')) as Golden;
  const { options, gradScale } = golden;
  const vector = (data: ArrayLike<number>) => ({ shape: [data.length], dtype: 'fp32' as const, data });
  const zeros = golden.param.map(() => 0);
  let state: ArrayLike<number>[] = [golden.param, zeros, zeros];
  for (const [i, grad] of golden.grads.entries()) {
    const inputs = {
      param: vector(state[0]!),
      m: vector(state[1]!),
      v: vector(state[2]!),
      grad: vector(grad),
      lr: vector([options.lr]),
      gradScale: vector([gradScale]),
      correction1: vector([1 - options.beta1 ** (i + 1)]),
      correction2: vector([1 - options.beta2 ** (i + 1)]),
    };
    state = await runGraph(inputs, ({ param, grad, m, v, ...numbers }) =>
      adamw(param!, grad!, m!, v!, numbers as unknown as AdamwInputs, options),
    );
    [golden.params, golden.m, golden.v].forEach((expected, output) => {
      expected[i]!.forEach((value, element) => {
        const error = Math.abs(state[output]![element]! - value);
        expect(error).toBeLessThan(1e-6 * Math.abs(value) + 1e-8);
      });
    });
  }
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  const numbers = { lr: one, gradScale: one, correction1: one, correction2: one };
  const options = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
  const half = graph.input('half', [3], 'bf16');
  expectHadalError(() => adamw(x, one, x, x, numbers, options), 'HADAL_ERR_SHAPE', /grad of shape \[3\].*\[1\]/);
  expectHadalError(() => adamw(x, x, x, half, numbers, options), 'HADAL_ERR_DTYPE', /v of dtype fp32.*bf16/);
  expectHadalError(() => adamw(x, x, x, x, { ...numbers, lr: x }, options), 'HADAL_ERR_SHAPE', /lr of shape \[1\]/);
});
