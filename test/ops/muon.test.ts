import { it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { muonMomentum, muonUpdate } from '../../src/ops/muon.js';
import { describeOp, expectHadalError } from '../support/op-case.js';
import { cases } from './muon.cases.js';

describeOp('muon', cases);

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [3, 2], 'fp32');
  const other = graph.input('other', [2, 3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  const options = { momentum: 0.9, nesterov: true, dtype: 'fp32' } as const;
  expectHadalError(() => muonMomentum([{ grad: x, m: other }], one, options), 'HADAL_ERR_SHAPE', /m of shape \[3, 2\]/);
  const pairs = [x, other].map((value) => ({ grad: value, m: value }));
  expectHadalError(() => muonMomentum(pairs, one, options), 'HADAL_ERR_SHAPE', /grad of shape \[3, 2\]/);
  expectHadalError(
    () => muonUpdate([{ param: x, weightDecay: 0 }], one, x, 1),
    'HADAL_ERR_SHAPE',
    /step of shape \[1, 3, 2\]/,
  );
});
