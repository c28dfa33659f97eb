import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { sgd, sgdMomentum } from '../../src/ops/sgd.js';
import { describeOp, expectHadalError } from '../support/op-case.js';
import { cases } from './sgd.cases.js';

describeOp('sgd', cases);

it('is one call for many tensors', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  sgd(Array(33).fill({ param: x, grad: x, weightDecay: 0, copy: 'bf16' }), { lr: one, gradScale: one });
  expect(graph.nodes.filter(({ op }) => op.name === 'sgd').map(({ outputs }) => outputs.length)).toEqual([32, 32, 2]);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  const inputs = { lr: one, gradScale: one };
  const tensor = { param: x, grad: x, weightDecay: 0 };
  expectHadalError(() => sgd([{ ...tensor, grad: one }], inputs), 'HADAL_ERR_SHAPE', /\[sgd\].* grad of shape \[3\]/);
  expectHadalError(
    () => sgdMomentum([{ ...tensor, m: one }], inputs, { momentum: 0.9, nesterov: false }),
    'HADAL_ERR_SHAPE',
    /\[sgd-momentum\].* m of shape \[3\]/,
  );
});
