// Messages packed and unpacked for one rank; what the wire takes is `hadal bench comm`'s to measure.
import type { Value } from '../../src/graph/graph.js';
import { allGather, allReduce, allToAll, broadcastFrom, reduceScatter } from '../../src/ops/collectives.js';
import { reshape } from '../../src/ops/shape.js';
import { benchCase } from '../support/bench-case.js';

const alone = { axis: 'dp', size: 1 } as const;
const shapes = [
  [2048, 512],
  [512, 2048],
] as const;
const inputs = { x0: { shape: shapes[0] }, x1: { shape: shapes[1] } };
const name = shapes.map((shape) => shape.join(' × ')).join(' + ');

const collective = (title: string, build: (values: readonly Value[]) => readonly Value[]) =>
  benchCase({
    name: `${title}, ${name}`,
    inputs: { x0: { ...inputs.x0, dtype: 'fp32' }, x1: { ...inputs.x1, dtype: 'fp32' } },
    build: ({ x0, x1 }) => build([x0, x1]),
    dtypes: ['fp32'],
  });

export const cases = [
  ...(['fp32', 'bf16', 'fp16'] as const).flatMap((wire) => [
    collective(`sum in ${wire}`, (values) => allReduce(values, { ...alone, op: 'sum', wire })),
    collective(`share in ${wire}`, (values) => reduceScatter(values, { ...alone, op: 'sum', wire })),
  ]),
  collective('gathered', (values) =>
    allGather(
      values.map((share) => ({ share, shape: share.shape })),
      alone,
    ),
  ),
  collective('exchanged', (values) =>
    allToAll(
      values.map((value) => reshape(value, [1, -1])),
      alone,
    ),
  ),
  collective('sent', (values) => broadcastFrom(values, alone, 0)),
];
