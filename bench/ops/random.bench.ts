import { dropout, randomFill } from '../../src/ops/random.js';
import { benchCase } from '../support/bench-case.js';

const shape = [8192, 1024];
const key = { shape: [2], dtype: 'int32', values: (i: number) => i } as const;
const normal = { stream: 1, distribution: 'normal', mean: 0, std: 0.02 } as const;

export const cases = [
  benchCase({
    name: '8192 × 1024, normal',
    inputs: { key },
    build: (values) => randomFill(values.key, shape, 'fp32', normal),
    dtypes: ['fp32'],
  }),
  benchCase({
    name: '8192 × 1024, a tenth dropped',
    inputs: { x: { shape }, key },
    build: (values) => dropout(values.x, values.key, { probability: 0.1, stream: 1 }),
  }),
];
