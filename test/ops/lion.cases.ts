import { type LionOptions, lion, lionRoot } from '../../src/ops/lion.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

const number = (value: number): CaseInput => ({ shape: [1], dtype: 'fp32', values: () => Math.fround(value) });
const names = (i: number) => ({ param: `param${i}`, grad: `grad${i}`, m: `m${i}`, s: `s${i}` });

interface Options extends LionOptions {
  /** Of the variant with a root; null: the paper's. */
  eps: number | null;
  weightDecay: number;
  betaShare?: number;
}

/**
 * Every second tensor of several has no decay, every third a copy, and each a learning rate of its own. A number whose sign
 * rounding could change is not drawn: gradients and means have the same sign, or the mean is far greater.
 */
function lionCase(
  shapes: number[][],
  { eps, weightDecay, betaShare, ...options }: Options,
  { state = 'float', param = 'float' }: { state?: 'float' | 'fp32' | 'bf16'; param?: 'float' | 'fp32' } = {},
): OpCase {
  const at = (begin: number, end = begin) => end + (begin - end) * (betaShare ?? 1);
  const [beta1, beta2] = [at(options.beta1, options.beta1End), at(options.beta2, options.beta2End)];
  const tensors = shapes.map((shape, i) => {
    const copy = i % 3 === 2 ? ('bf16' as const) : null;
    return { shape, decay: i % 2 === 0 ? weightDecay : 0, copy, lrRatio: 1 + i / 4, ...names(i) };
  });
  const signed = (i: number) => (i % 3 === 0 ? -1 : 1);
  const kind = eps === null ? 'sign' : 'root';
  return {
    name: `${kind} ${shapes.map((shape) => `[${shape}]`).join(' ')} ${param} param, ${state} moments, decay ${weightDecay}${betaShare === undefined ? '' : `, ${betaShare} of β`}`,
    inputs: {
      ...Object.fromEntries(
        tensors.flatMap(
          ({ shape, ...tensor }) =>
            [
              [tensor.param, { shape, dtype: param }],
              [tensor.grad, { shape, values: (rng, i) => (i % 7 === 0 ? -1 : 1) * signed(i) * (0.1 + rng.uniform()) }],
              [tensor.m, { shape, dtype: state, values: (rng, i) => signed(i) * (5 + rng.uniform()) }],
              ...(eps === null
                ? []
                : [[tensor.s, { shape, dtype: state, values: (rng) => 0.01 + rng.uniform() }] as [string, CaseInput]]),
            ] satisfies [string, CaseInput][],
        ),
      ),
      lr: number(0.05),
      gradScale: number(0.3),
      ...(betaShare !== undefined && { betaShare: number(betaShare) }),
    },
    build({ lr, gradScale, betaShare = null, ...values }) {
      const inputs = { lr: lr!, gradScale: gradScale!, betaShare };
      const given = tensors.map(({ param, grad, m, decay, copy, lrRatio }) => {
        return { param: values[param]!, grad: values[grad]!, m: values[m]!, weightDecay: decay, copy, lrRatio };
      });
      if (eps === null) {
        return lion(given, inputs, options).flatMap(({ param, m, copy }) => (copy ? [param, m, copy] : [param, m]));
      }
      const rooted = given.map((tensor, i) => ({ ...tensor, s: values[`s${i}`]! }));
      const results = lionRoot(rooted, inputs, { ...options, eps });
      return results.flatMap(({ param, m, s, copy }) => (copy ? [param, m, s, copy] : [param, m, s]));
    },
    reference: ({ lr, gradScale, ...values }, r) =>
      tensors.flatMap((tensor) => {
        const [param, m] = [tensor.param, tensor.m].map((name) => Float64Array.from(values[name]!));
        const s = Float64Array.from(values[tensor.s] ?? []);
        param!.forEach((p, i) => {
          const g = r(values[tensor.grad]![i]! * gradScale![0]!);
          const mixed = r(r(beta1 * m![i]!) + r(r(1 - beta1) * g));
          let step = Math.sign(mixed);
          if (eps === null) {
            m![i] = r(r(beta2 * m![i]!) + r(r(1 - beta2) * g));
          } else {
            m![i] = mixed;
            s[i] = r(r(beta2 * s[i]!) + r(r(1 - beta2) * r(g * g)));
            step = r(step / r(r(Math.sqrt(s[i]!)) + eps));
          }
          param![i] = r(p - r(r(lr![0]! * tensor.lrRatio) * r(step + r(tensor.decay * p))));
        });
        return [param!, m!, ...(eps === null ? [] : [s]), ...(tensor.copy ? [param!] : [])];
      }),
    differentiable: [],
  };
}

const common: Options = { beta1: 0.9, beta2: 0.99, weightDecay: 0.1, eps: null };

export const cases: OpCase[] = [null, 1e-8].flatMap((eps) => [
  lionCase([[5, 7]], { ...common, eps }),
  lionCase([[1], [0], [64]], { ...common, eps, weightDecay: 0 }),
  lionCase([[133], [4097], [9001]], { ...common, eps }, { state: 'fp32', param: 'fp32' }),
  lionCase([[3, 11], [260], [17]], { ...common, eps }, { state: 'bf16', param: 'fp32' }),
  lionCase([[5], [70]], { ...common, eps, beta1End: 0.6, beta2End: 0.8, betaShare: 0.3 }),
  lionCase(
    Array.from({ length: 19 }, (_, i) => [i + 1]),
    { ...common, eps },
  ),
]);
