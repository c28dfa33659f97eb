import { muonMomentum, muonUpdate } from '../../src/ops/muon.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

const number = (value: number): CaseInput => ({ shape: [1], dtype: 'fp32', values: () => Math.fround(value) });
const listed = (count: number) => Array.from({ length: count }, (_, i) => i);

function momentumCase(
  tensors: number,
  shape: number[],
  nesterov: boolean,
  { state = 'float', dtype = 'fp32' as 'fp32' | 'bf16' }: { state?: 'float' | 'fp32'; dtype?: 'fp32' | 'bf16' } = {},
): OpCase {
  const momentum = 0.9;
  return {
    name: `momentum of ${tensors} × [${shape}]${nesterov ? ', Nesterov' : ''}, ${state} to ${dtype}`,
    inputs: {
      ...Object.fromEntries(
        listed(tensors).flatMap((i) => [
          [`grad${i}`, { shape }],
          [`m${i}`, { shape, dtype: state }],
        ]),
      ),
      gradScale: number(0.3),
    },
    build({ gradScale, ...values }) {
      const pairs = listed(tensors).map((i) => ({ grad: values[`grad${i}`]!, m: values[`m${i}`]! }));
      const { direction, m } = muonMomentum(pairs, gradScale!, { momentum, nesterov, dtype });
      return [direction, ...m];
    },
    reference({ gradScale, ...values }, r) {
      const direction: number[] = [];
      const next = listed(tensors).map((i) =>
        values[`m${i}`]!.map((m, j) => {
          const g = r(r(values[`grad${i}`]![j]! * gradScale![0]!) * r(1 - momentum));
          const m1 = r(r(momentum * m) + g);
          direction.push(nesterov ? r(r(momentum * m1) + g) : m1);
          return m1;
        }),
      );
      return [direction, ...next];
    },
    differentiable: [],
  };
}

/** Every second tensor has no decay, every third a copy, and each a learning rate of its own. */
function updateCase(tensors: number, shape: number[], scale: number): OpCase {
  const weightDecay = (i: number) => (i % 2 === 0 ? 0.1 : 0);
  const lrRatio = (i: number) => 1 + i / 4;
  const copy = (i: number) => (i % 3 === 2 ? ('bf16' as const) : null);
  return {
    name: `update of ${tensors} × [${shape}]`,
    inputs: {
      ...Object.fromEntries(listed(tensors).map((i) => [`param${i}`, { shape, dtype: 'fp32' }])),
      step: { shape: [tensors, ...shape] },
      lr: number(0.05),
    },
    build({ lr, step, ...values }) {
      const given = listed(tensors).map((i) => {
        return { param: values[`param${i}`]!, weightDecay: weightDecay(i), lrRatio: lrRatio(i), copy: copy(i) };
      });
      return muonUpdate(given, lr!, step!, scale).flatMap(({ param, copy }) => (copy ? [param, copy] : [param]));
    },
    reference: ({ lr, step, ...values }, r) =>
      listed(tensors).flatMap((i) => {
        const param = values[`param${i}`]!;
        const rate = r(lr![0]! * lrRatio(i));
        const next = param.map((p, j) => {
          const kept = r(p * r(1 - r(rate * weightDecay(i))));
          return r(kept - r(r(rate * scale) * step![i * param.length + j]!));
        });
        return copy(i) ? [next, next] : [next];
      }),
    differentiable: [],
  };
}

export const cases: OpCase[] = [
  momentumCase(1, [5, 7], false),
  momentumCase(3, [5, 7], true),
  momentumCase(2, [3, 700, 5], true, { state: 'fp32', dtype: 'bf16' }),
  momentumCase(16, [2, 3], true),
  momentumCase(2, [0, 3], true),
  updateCase(1, [5, 7], 1),
  updateCase(3, [3, 700, 5], 0.7),
  updateCase(16, [2, 3], 2),
];
