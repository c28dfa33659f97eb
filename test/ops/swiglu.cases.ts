import { swiglu } from '../../src/ops/swiglu.js';
import type { OpCase } from '../support/op-case.js';

function swigluCase(leading: number[], I: number, { scale = 1, bench = false } = {}): OpCase {
  return {
    name: `[${leading}] I${I} scale ${scale}`,
    inputs: { gateUp: { shape: [...leading, 2 * I], values: (rng) => scale * rng.normal() } },
    build: ({ gateUp }) => swiglu(gateUp!),
    reference({ gateUp }, r) {
      const y = new Float64Array(gateUp!.length / 2);
      y.forEach((_, i) => {
        const at = 2 * (i - (i % I)) + (i % I);
        const [gate, up] = [gateUp![at]!, gateUp![at + I]!];
        const sigmoid = r(1 / r(1 + r(Math.exp(-gate))));
        y[i] = r(r(gate * sigmoid) * up);
      });
      return [y];
    },
    ...(bench && { bench }),
  };
}

export const cases: OpCase[] = [
  swigluCase([5], 7),
  swigluCase([3], 16),
  swigluCase([2, 3], 35),
  swigluCase([], 5),
  swigluCase([4], 1),
  swigluCase([0], 8),
  swigluCase([3], 20, { scale: 20 }), // saturated gates
  swigluCase([2048], 1024, { bench: true }),
];
