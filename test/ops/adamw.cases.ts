import { type AdamwOptions, adamw } from '../../src/ops/adamw.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

const number = (value: number): CaseInput => ({ shape: [1], dtype: 'fp32', values: () => Math.fround(value) });

function adamwCase(shape: number[], options: AdamwOptions, { fp32 = false, bench = false } = {}): OpCase {
  const { beta1, beta2, eps, weightDecay } = options;
  const state = fp32 ? 'fp32' : 'float';
  return {
    name: `[${shape}]${fp32 ? ' fp32 moments' : ''} decay ${weightDecay}`,
    inputs: {
      param: { shape },
      grad: { shape },
      m: { shape, dtype: state, values: (rng) => 0.1 * rng.normal() },
      v: { shape, dtype: state, values: (rng) => 0.01 + 0.1 * rng.uniform() },
      lr: number(0.05),
      gradScale: number(0.3),
      correction1: number(1 - beta1 ** 3),
      correction2: number(1 - beta2 ** 3),
    },
    build: ({ param, grad, m, v, lr, gradScale, correction1, correction2 }) =>
      adamw(
        param!,
        grad!,
        m!,
        v!,
        { lr: lr!, gradScale: gradScale!, correction1: correction1!, correction2: correction2! },
        options,
      ),
    reference({ param, grad, m, v, lr, gradScale, correction1, correction2 }, r) {
      const outputs = [new Float64Array(param!), new Float64Array(m!), new Float64Array(v!)] as const;
      param!.forEach((p, i) => {
        const g = r(grad![i]! * gradScale![0]!);
        const m1 = r(r(beta1 * m![i]!) + r(r(1 - beta1) * g));
        const v1 = r(r(beta2 * v![i]!) + r(r(1 - beta2) * r(g * g)));
        const step = r(r(m1 / correction1![0]!) / r(r(Math.sqrt(r(v1 / correction2![0]!))) + eps));
        outputs[0][i] = r(p - r(lr![0]! * r(step + r(weightDecay * p))));
        outputs[1][i] = m1;
        outputs[2][i] = v1;
      });
      return [...outputs];
    },
    differentiable: [],
    ...(bench && { bench }),
  };
}

const common: AdamwOptions = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };

export const cases: OpCase[] = [
  adamwCase([5, 7], common),
  adamwCase([64], { ...common, weightDecay: 0 }),
  adamwCase([133], { ...common, eps: 0.1 }, { fp32: true }),
  adamwCase([1], common),
  adamwCase([0], common),
  adamwCase([4096, 1024], common, { fp32: true, bench: true }),
];
