import { sgd, sgdMomentum } from '../../src/ops/sgd.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

const number = (value: number): CaseInput => ({ shape: [1], dtype: 'fp32', values: () => Math.fround(value) });
const names = (i: number) => ({ param: `param${i}`, grad: `grad${i}`, m: `m${i}` });

interface Options {
  momentum: number;
  nesterov?: boolean;
  weightDecay: number;
}

/** Every second tensor of several has no decay, every third a copy, and each a learning rate of its own. */
function sgdCase(
  shapes: number[][],
  { momentum, nesterov = false, weightDecay }: Options,
  { state = 'float', param = 'float' }: { state?: 'float' | 'fp32'; param?: 'float' | 'fp32' } = {},
): OpCase {
  const moves = momentum > 0;
  const tensors = shapes.map((shape, i) => {
    const copy = i % 3 === 2 ? ('bf16' as const) : null;
    return { shape, decay: i % 2 === 0 ? weightDecay : 0, copy, lrRatio: 1 + i / 4, ...names(i) };
  });
  return {
    name: `${shapes.map((shape) => `[${shape}]`).join(' ')} ${param} param, ${state} momentum ${momentum}${nesterov ? ' of Nesterov' : ''}, decay ${weightDecay}`,
    inputs: {
      ...Object.fromEntries(
        tensors.flatMap(({ shape, ...tensor }) => [
          [tensor.param, { shape, dtype: param }],
          [tensor.grad, { shape }],
          ...(moves ? [[tensor.m, { shape, dtype: state }]] : []),
        ]),
      ),
      lr: number(0.05),
      gradScale: number(0.3),
    },
    build({ lr, gradScale, ...values }) {
      const inputs = { lr: lr!, gradScale: gradScale! };
      const given = tensors.map(({ param, grad, decay, copy, lrRatio }) => {
        return { param: values[param]!, grad: values[grad]!, weightDecay: decay, copy, lrRatio };
      });
      if (!moves) return sgd(given, inputs).flatMap(({ param, copy }) => (copy ? [param, copy] : [param]));
      const moving = given.map((tensor, i) => ({ ...tensor, m: values[`m${i}`]! }));
      const results = sgdMomentum(moving, inputs, { momentum, nesterov });
      return results.flatMap(({ param, m, copy }) => (copy ? [param, m, copy] : [param, m]));
    },
    reference: ({ lr, gradScale, ...values }, r) =>
      tensors.flatMap((tensor) => {
        const param = Float64Array.from(values[tensor.param]!);
        const m = Float64Array.from(values[tensor.m] ?? []);
        param.forEach((p, i) => {
          let step = r(r(values[tensor.grad]![i]! * gradScale![0]!) + r(tensor.decay * p));
          if (moves) {
            m[i] = r(r(momentum * m[i]!) + step);
            step = nesterov ? r(step + r(momentum * m[i]!)) : m[i]!;
          }
          param[i] = r(p - r(r(lr![0]! * tensor.lrRatio) * step));
        });
        return [param, ...(moves ? [m] : []), ...(tensor.copy ? [param] : [])];
      }),
    differentiable: [],
  };
}

export const cases: OpCase[] = [
  sgdCase([[5, 7]], { momentum: 0, weightDecay: 0.1 }),
  sgdCase([[5, 7]], { momentum: 0.9, weightDecay: 0.1 }),
  sgdCase([[64], [1], [0]], { momentum: 0.9, nesterov: true, weightDecay: 0 }),
  sgdCase(
    [[133], [4097], [9001]],
    { momentum: 0.9, nesterov: true, weightDecay: 0.1 },
    { state: 'fp32', param: 'fp32' },
  ),
  sgdCase(
    Array.from({ length: 19 }, (_, i) => [i + 1]),
    { momentum: 0, weightDecay: 0.1 },
  ),
];
