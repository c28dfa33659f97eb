import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { allGather, allReduce, allToAll, reduceScatter } from '../../src/ops/collectives.js';
import { compile } from '../../src/runtime/compile.js';
import { describeOp, expectHadalError, testDevice } from '../support/op-case.js';
import { cases } from './collectives.cases.js';

describeOp('collectives', cases);

const two = { axis: 'dp', size: 2 } as const;

it('a program for ranks that the device has no group of is refused, not run alone', async () => {
  const graph = new Graph();
  const [sum] = allReduce([graph.input('x', [4], 'fp32')], { ...two, op: 'sum', wire: 'fp32' });
  graph.output('sum', sum!);
  const device = testDevice();
  const program = device.load(compile(graph, device.target));
  using y = device.allocate([4], 'fp32');
  await expect(device.run([{ program, slots: { sum: y }, inputs: { x: new Float32Array(4) } }])).rejects.toMatchObject({
    code: 'HADAL_ERR_RUN',
    message: /expected a process group of 2 ranks on axis 0, got 1/,
  });
});

it('names what does not fit', () => {
  const graph = new Graph();
  const half = graph.input('half', [3], 'bf16');
  const x = graph.input('x', [3], 'fp32');
  const sum = { ...two, op: 'sum', wire: 'fp32' } as const;
  expectHadalError(() => allReduce([half], sum), 'HADAL_ERR_DTYPE', /\[all-reduce\] expected x of dtype fp32/);
  expectHadalError(() => reduceScatter([half], sum), 'HADAL_ERR_DTYPE', /\[reduce-scatter\] expected x of dtype fp32/);
  expectHadalError(
    () => allGather([{ share: x, shape: [7] }], two),
    'HADAL_ERR_SHAPE',
    /a share of 4 numbers, got fp32 \[3\]/,
  );
  expectHadalError(() => allToAll([x], two), 'HADAL_ERR_SHAPE', /x of 2 parts, got fp32 \[3\]/);
});
