import { add, cast, gelu, multiply, silu } from '../../src/ops/elementwise.js';
import { slice, transpose } from '../../src/ops/shape.js';
import { benchCase } from '../support/bench-case.js';
import { rowsBeyondCache } from '../support/cache.js';

const byRows = [2048, rowsBeyondCache(1024)].flatMap((rows) => {
  const [x, z, bias] = [{ shape: [rows, 1024] }, { shape: [rows, 1024] }, { shape: [1024], dtype: 'fp32' as const }];
  const name = `${rows} × 1024`;
  return [
    benchCase({ name: `${name}, x + z`, inputs: { x, z }, build: (values) => add(values.x, values.z) }),
    benchCase({
      name: `${name}, silu(x) · z`,
      inputs: { x, z },
      build: (values) => multiply(silu(values.x), values.z),
    }),
    benchCase({
      name: `${name}, gelu(x + bias)`,
      inputs: { x, bias },
      build: (values) => gelu(cast(add(values.x, values.bias), values.x.dtype)),
    }),
    benchCase({ name: `${name}, to bf16`, inputs: { x }, build: (values) => cast(values.x, 'bf16'), dtypes: ['fp32'] }),
    benchCase({ name: `${name}, to fp32`, inputs: { x }, build: (values) => cast(values.x, 'fp32'), dtypes: ['bf16'] }),
    benchCase({
      name: `${name}, half of each row`,
      inputs: { x },
      build: (values) => slice(values.x, 1, 256, 768),
    }),
  ];
});

const transposed = benchCase({
  name: '2048 × 1024, transposed',
  inputs: { x: { shape: [2048, 1024] } },
  build: ({ x }) => transpose(x, [1, 0]),
});

export const cases = [...byRows, transposed];
