// A program for one rank needs nobody else: what comes back is what went in, through the same messages.
import type { Value } from '../../src/graph/graph.js';
import { allGather, allReduce, allToAll, broadcastFrom, reduceScatter } from '../../src/ops/collectives.js';
import { type FloatDType, roundTo } from '../support/compare.js';
import type { OpCase } from '../support/op-case.js';

const alone = { axis: 'dp', size: 1 } as const;

function collectiveCase(
  name: string,
  shapes: number[][],
  build: (values: Value[]) => Value[],
  round: (x: number) => number = (x) => x,
): OpCase {
  return {
    name: `${name} ${shapes.map((shape) => `[${shape}]`).join(' ')}`,
    inputs: Object.fromEntries(shapes.map((shape, i) => [`x${i}`, { shape, dtype: 'fp32' }])),
    build: (values) => build(shapes.map((_, i) => values[`x${i}`] as Value)),
    reference: (values) => shapes.map((_, i) => (values[`x${i}`] as Float64Array).map(round)),
    differentiable: [],
    dtypes: ['fp32'],
  };
}

const shapesOfCases = [[[5, 7]], [[3], [0], [64, 2], [1]], Array.from({ length: 70 }, (_, i) => [i + 1])];

export const cases: OpCase[] = shapesOfCases.flatMap((shapes) => [
  ...(['fp32', 'bf16', 'fp16'] as const).flatMap((wire: FloatDType) => [
    collectiveCase(
      `all-reduce ${wire}`,
      shapes,
      (values) => allReduce(values, { ...alone, op: 'sum', wire }),
      (x) => roundTo(wire, x),
    ),
    collectiveCase(
      `reduce-scatter ${wire}`,
      shapes,
      (values) => reduceScatter(values, { ...alone, op: 'sum', wire }),
      (x) => roundTo(wire, x),
    ),
  ]),
  collectiveCase('all-gather', shapes, (values) =>
    allGather(
      values.map((value, i) => ({ share: value, shape: shapes[i] as number[] })),
      alone,
    ),
  ),
  collectiveCase(
    'all-to-all',
    shapes.map((shape) => [1, ...shape]),
    (values) => allToAll(values, alone),
  ),
  collectiveCase('broadcast-from', shapes, (values) => broadcastFrom(values, alone, 0)),
]);
