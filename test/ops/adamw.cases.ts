import { type AdamwOptions, adamw } from '../../src/ops/adamw.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

const number = (value: number): CaseInput => ({ shape: [1], dtype: 'fp32', values: () => Math.fround(value) });

interface Options extends AdamwOptions {
  weightDecay: number;
}

/** Names of a tensor's inputs. */
const names = (i: number) => ({ param: `param${i}`, grad: `grad${i}`, m: `m${i}`, v: `v${i}` });

/** Every second tensor of several has no decay, and every third a copy. */
function adamwCase(
  shapes: number[][],
  { weightDecay, ...options }: Options,
  { state = 'float', param = 'float', bench = false }: { state?: Kind; param?: Kind; bench?: boolean } = {},
): OpCase {
  const { beta1, beta2, eps } = options;
  const tensors = shapes.map((shape, i) => {
    return { shape, decay: i % 2 === 0 ? weightDecay : 0, copies: i % 3 === 2, ...names(i) };
  });
  return {
    name: `${shapes.map((shape) => `[${shape}]`).join(' ')} ${param} param, ${state} moments, decay ${weightDecay}`,
    inputs: {
      ...Object.fromEntries(
        tensors.flatMap(
          ({ shape, ...tensor }) =>
            [
              [tensor.param, { shape, dtype: param }],
              [tensor.grad, { shape }],
              [tensor.m, { shape, dtype: state, values: (rng) => 0.1 * rng.normal() }],
              [tensor.v, { shape, dtype: state, values: (rng) => 0.01 + 0.1 * rng.uniform() }],
            ] satisfies [string, CaseInput][],
        ),
      ),
      lr: number(0.05),
      gradScale: number(0.3),
      correction1: number(1 - beta1 ** 3),
      correction2: number(1 - beta2 ** 3),
    },
    build({ lr, gradScale, correction1, correction2, ...values }) {
      const results = adamw(
        tensors.map(({ param, grad, m, v, decay, copies }) => {
          const state = { param: values[param]!, grad: values[grad]!, m: values[m]!, v: values[v]! };
          return { ...state, weightDecay: decay, copies };
        }),
        { lr: lr!, gradScale: gradScale!, correction1: correction1!, correction2: correction2! },
        options,
      );
      return results.flatMap(({ param, m, v, copy }) => (copy ? [param, m, v, copy] : [param, m, v]));
    },
    reference: ({ lr, gradScale, correction1, correction2, ...values }, r) =>
      tensors.flatMap((tensor) => {
        const [param, m, v] = [tensor.param, tensor.m, tensor.v].map((name) => Float64Array.from(values[name]!));
        param!.forEach((p, i) => {
          const g = r(values[tensor.grad]![i]! * gradScale![0]!);
          const m1 = r(r(beta1 * m![i]!) + r(r(1 - beta1) * g));
          const v1 = r(r(beta2 * v![i]!) + r(r(1 - beta2) * r(g * g)));
          const step = r(r(m1 / correction1![0]!) / r(r(Math.sqrt(r(v1 / correction2![0]!))) + eps));
          param![i] = r(p - r(lr![0]! * r(step + r(tensor.decay * p))));
          m![i] = m1;
          v![i] = v1;
        });
        return tensor.copies ? [param!, m!, v!, param!] : [param!, m!, v!];
      }),
    differentiable: [],
    ...(bench && { bench }),
  };
}

type Kind = 'float' | 'fp32';

const common: Options = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
const fp32State = { state: 'fp32', param: 'fp32' } as const;

export const cases: OpCase[] = [
  adamwCase([[5, 7]], common),
  adamwCase([[64]], { ...common, weightDecay: 0 }),
  adamwCase([[133]], { ...common, eps: 0.1 }, { state: 'fp32' }),
  adamwCase([[1]], common),
  adamwCase([[0]], common),
  // fp32 weights whose gradients are in the dtype under test, as a model in bf16 has them.
  adamwCase([[3, 11], [1], [129], [0], [2, 2, 5], [17]], common, fp32State),
  // Shares of two threads begin and end within tensors.
  adamwCase([[7], [4096], [9001], [3], [4097], [63]], common, fp32State),
  // More tensors than one call takes.
  adamwCase(
    Array.from({ length: 19 }, (_, i) => [i + 1]),
    common,
  ),
  adamwCase([[4096, 1024]], common, { ...fp32State, bench: true }),
];
