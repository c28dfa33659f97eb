// AdamW over several tensors. Kingma & Ba 2015, arXiv:1412.6980; decoupled decay of Loshchilov & Hutter 2019,
// arXiv:1711.05101, alg. 2. Formula: native/ops/adamw.h.
import type { DType } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';

/** What varies between steps: fp32 [1] each. */
export interface AdamwInputs {
  lr: Value;
  /** Factor on the gradient: clipping, and 1 / loss scale. */
  gradScale: Value;
  /** 1 − beta1^step, steps counted from 1. */
  correction1: Value;
  /** 1 − beta2^step. */
  correction2: Value;
}

/** What does not vary between steps. */
export interface AdamwOptions {
  beta1: number;
  beta2: number;
  eps: number;
}

/** A tensor to update. */
export interface AdamwTensor {
  /** Any shape, float. */
  param: Value;
  /** Shape of param, float. */
  grad: Value;
  /** First moment: shape of param, float. */
  m: Value;
  /** Second moment: shape of param, dtype of m. */
  v: Value;
  weightDecay: number;
  /** Whether the next param is wanted in bf16, too. */
  copies?: boolean;
}

/** A tensor after the update; `copy` is null where none was asked for. */
export interface AdamwResult {
  param: Value;
  m: Value;
  v: Value;
  copy: Value | null;
}

type AdamwAttrs = Readonly<AdamwOptions> & { weightDecay: readonly number[]; copies: readonly boolean[] };

/** Tensors of one call: `maxTensors` of native/ops/adamw.h. */
const maxTensors = 16;
/** Inputs before the tensors' own: lr, gradScale and the corrections. */
const numbers = ['lr', 'gradScale', 'correction1', 'correction2'] as const;

const tensorsOf = (inputs: readonly Value[]) =>
  Array.from({ length: (inputs.length - numbers.length) / 4 }, (_, i) => {
    const [param, grad, m, v] = inputs.slice(numbers.length + 4 * i) as [Value, Value, Value, Value];
    return { param, grad, m, v };
  });
const padded = <T>(items: readonly T[], filler: T): T[] => [
  ...items,
  ...Array<T>(maxTensors - items.length).fill(filler),
];

/** Outputs are next param, m and v of each tensor, then the copies that are asked for. */
const adamwOp = defineOp<AdamwAttrs, readonly Value[], readonly Value[]>({
  name: 'adamw',
  infer(inputs, { copies }) {
    for (const [i, name] of numbers.entries()) {
      expectDType('adamw', name, inputs[i] as Value, 'fp32');
      expectShape('adamw', name, inputs[i] as Value, [1]);
    }
    const tensors = tensorsOf(inputs);
    for (const { param, grad, m, v } of tensors) {
      expectDType('adamw', 'param', param, 'float');
      expectDType('adamw', 'grad', grad, 'float');
      expectDType('adamw', 'm', m, 'float');
      expectDType('adamw', 'v', v, m.dtype);
      for (const [name, value] of Object.entries({ grad, m, v })) expectShape('adamw', name, value, param.shape);
    }
    return [
      ...tensors.flatMap(({ param, m, v }) => [param, m, v].map(({ shape, dtype }) => ({ shape, dtype }))),
      ...tensors.filter((_, i) => copies[i]).map(({ param }) => ({ shape: param.shape, dtype: 'bf16' as const })),
    ];
  },
  inPlace: Array.from({ length: maxTensors }, (_, i) =>
    [0, 2, 3].map((input, n) => [3 * i + n, numbers.length + 4 * i + input] as const),
  ).flat(),
  cost: (inputs, outputs) => ({
    flops: 15 * tensorsOf(inputs).reduce((total, { param }) => total + param.size, 0),
    bytesRead: inputs.reduce((total, { bytes }) => total + bytes, 0),
    bytesWritten: outputs.reduce((total, { bytes }) => total + bytes, 0),
  }),
  kernel(inputs, outputs, { beta1, beta2, eps, weightDecay, copies }) {
    const tensors = tensorsOf(inputs);
    const copyOutputs = outputs.slice(3 * tensors.length);
    const dtypes = (which: 'param' | 'grad' | 'm') =>
      padded<DType>(
        tensors.map((tensor) => tensor[which].dtype),
        'fp32',
      );
    return {
      kernel: 'adamw',
      params: {
        ...{ tensors: tensors.length, beta1, beta2, eps, weightDecay: padded(weightDecay, 0) },
        count: padded(
          tensors.map(({ param }) => param.size),
          0,
        ),
        ...{ dtype: dtypes('param'), gradDtype: dtypes('grad'), momentDtype: dtypes('m') },
      },
      buffers: [
        ...inputs.slice(0, numbers.length),
        ...tensors.flatMap(({ param, grad, m, v }, i) => [
          ...[param, grad, m, v, ...outputs.slice(3 * i, 3 * i + 3)],
          copies[i] ? (copyOutputs.shift() as Value) : null,
        ]),
      ],
    };
  },
});

/**
 * One AdamW step of any number of tensors, equal to `torch.optim.AdamW`:
 * param − lr·((m/correction1) / (√(v/correction2) + eps) + weightDecay·param).
 *
 * @returns the next param, m, v and copy of each tensor
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function adamw(
  tensors: readonly AdamwTensor[],
  { lr, gradScale, correction1, correction2 }: AdamwInputs,
  { beta1, beta2, eps }: AdamwOptions,
): AdamwResult[] {
  const results: AdamwResult[] = [];
  for (let begin = 0; begin < tensors.length; begin += maxTensors) {
    const group = tensors.slice(begin, begin + maxTensors);
    const copies = group.map((tensor) => tensor.copies ?? false);
    const outputs = adamwOp.apply(
      [lr, gradScale, correction1, correction2, ...group.flatMap(({ param, grad, m, v }) => [param, grad, m, v])],
      { beta1, beta2, eps, weightDecay: group.map(({ weightDecay }) => weightDecay), copies },
    );
    const copyOutputs = outputs.slice(3 * group.length);
    for (const [i, wanted] of copies.entries()) {
      const [param, m, v] = outputs.slice(3 * i) as [Value, Value, Value];
      const copy = wanted ? copyOutputs.shift() : null;
      invariant(copy !== undefined, 'a copy is missing');
      results.push({ param, m, v, copy });
    }
  }
  return results;
}
