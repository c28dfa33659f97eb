import { type AdamwOptions, adamw } from '../../src/ops/adamw.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

const number = (value: number): CaseInput => ({ shape: [1], dtype: 'fp32', values: () => Math.fround(value) });

interface Options extends AdamwOptions {
  weightDecay: number;
  l4Decay?: number;
  /** What is left of the way to the ends of β. */
  betaShare?: number;
}

/** Names of a tensor's inputs. */
const names = (i: number) => ({ param: `param${i}`, grad: `grad${i}`, m: `m${i}`, v: `v${i}` });

/** Every second tensor of several has no decay, every third a copy, and each a learning rate of its own. */
function adamwCase(
  shapes: number[][],
  { weightDecay, l4Decay = 0, betaShare, ...options }: Options,
  { state = 'float', param = 'float', bench = false }: { state?: Kind | 'bf16'; param?: Kind; bench?: boolean } = {},
): OpCase {
  const { eps } = options;
  const at = (begin: number, end = begin) => end + (begin - end) * (betaShare ?? 1);
  const [beta1, beta2] = [at(options.beta1, options.beta1End), at(options.beta2, options.beta2End)];
  const tensors = shapes.map((shape, i) => {
    const copy = i % 3 === 2 ? (i % 2 === 0 ? ('bf16' as const) : ('fp16' as const)) : null;
    return { shape, decay: i % 2 === 0 ? weightDecay : 0, copy, lrRatio: 1 + i / 4, ...names(i) };
  });
  return {
    name: `${shapes.map((shape) => `[${shape}]`).join(' ')} ${param} param, ${state} moments, decay ${weightDecay}${l4Decay ? ` and ${l4Decay}` : ''}${betaShare === undefined ? '' : `, ${betaShare} of β`}`,
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
      ...(betaShare !== undefined && { betaShare: number(betaShare) }),
    },
    build({ lr, gradScale, correction1, correction2, betaShare = null, ...values }) {
      const results = adamw(
        tensors.map(({ param, grad, m, v, decay, copy, lrRatio }) => {
          const state = { param: values[param]!, grad: values[grad]!, m: values[m]!, v: values[v]! };
          return { ...state, weightDecay: decay, l4Decay, copy, lrRatio };
        }),
        { lr: lr!, gradScale: gradScale!, correction1: correction1!, correction2: correction2!, betaShare },
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
          const shrink = r(r(tensor.decay * p) + r(l4Decay * r(p * r(p * p))));
          param![i] = r(p - r(r(lr![0]! * tensor.lrRatio) * r(step + shrink)));
          m![i] = m1;
          v![i] = v1;
        });
        return tensor.copy ? [param!, m!, v!, param!] : [param!, m!, v!];
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
  adamwCase([[37], [3, 20]], { ...common, l4Decay: 0.05 }),
  adamwCase([[5], [70]], { ...common, beta1End: 0.6, beta2End: 0.99, betaShare: 0.3 }),
  adamwCase([[3, 11], [260], [17]], common, { state: 'bf16', param: 'fp32' }),
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
