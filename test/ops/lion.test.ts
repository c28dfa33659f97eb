import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { lion, lionRoot } from '../../src/ops/lion.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './lion.cases.js';

describeOp('lion', cases);

const vector = (data: ArrayLike<number>) => ({ shape: [data.length], dtype: 'fp32' as const, data });

it('moves by lr whatever the gradient’s size, and not at all where it and the mean are 0', async () => {
  const grad = vector([1e-30, -1e-30, 1e30, -1e30, 0, -0]);
  const zeros = vector(Array(6).fill(0));
  const inputs = { grad, zeros, lr: vector([0.25]), one: vector([1]) };
  const [param] = await runGraph(inputs, ({ grad, zeros, lr, one }) => {
    const tensor = { param: zeros!, grad: grad!, m: zeros!, weightDecay: 0 };
    return [lion([tensor], { lr: lr!, gradScale: one! }, { beta1: 0.9, beta2: 0.99 })[0]!.param];
  });
  expect(Array.from(param!, (x) => x + 0)).toEqual([-0.25, 0.25, -0.25, 0.25, 0, 0]);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  const half = graph.input('half', [3], 'bf16');
  const inputs = { lr: one, gradScale: one };
  const tensor = { param: x, grad: x, m: x, weightDecay: 0 };
  const options = { beta1: 0.9, beta2: 0.99 };
  expectHadalError(() => lion([{ ...tensor, m: one }], inputs, options), 'HADAL_ERR_SHAPE', /\[lion\].* m of shape/);
  expectHadalError(
    () => lionRoot([{ ...tensor, s: half }], inputs, { ...options, eps: 1e-8 }),
    'HADAL_ERR_DTYPE',
    /\[lion-root\].* s of dtype fp32/,
  );
  expectHadalError(() => lion([tensor], { ...inputs, lr: x }, options), 'HADAL_ERR_SHAPE', /lr of shape \[1\]/);
});
