// AdamW. Kingma & Ba 2015, arXiv:1412.6980; decoupled decay of Loshchilov & Hutter 2019, arXiv:1711.05101, alg. 2.
// Formula: native/ops/adamw.h.
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
  weightDecay: number;
}

const adamwOp = defineOp<
  Readonly<AdamwOptions>,
  [param: Value, grad: Value, m: Value, v: Value, lr: Value, gradScale: Value, correction1: Value, correction2: Value],
  [param: Value, m: Value, v: Value]
>({
  name: 'adamw',
  infer([param, grad, m, v, ...numbers]) {
    expectDType('adamw', 'param', param, 'float');
    expectDType('adamw', 'grad', grad, 'float');
    expectDType('adamw', 'm', m, 'float');
    expectDType('adamw', 'v', v, m.dtype);
    for (const [name, value] of Object.entries({ grad, m, v })) expectShape('adamw', name, value, param.shape);
    ['lr', 'gradScale', 'correction1', 'correction2'].forEach((name, i) => {
      expectDType('adamw', name, numbers[i] as Value, 'fp32');
      expectShape('adamw', name, numbers[i] as Value, [1]);
    });
    return [param, m, v].map(({ shape, dtype }) => ({ shape, dtype }));
  },
  inPlace: [
    [0, 0],
    [1, 2],
    [2, 3],
  ],
  cost: ([param, grad, m]) => ({
    flops: 15 * param.size,
    bytesRead: param.bytes + grad.bytes + 2 * m.bytes,
    bytesWritten: param.bytes + 2 * m.bytes,
  }),
  kernel: (inputs, outputs, attrs) => {
    const [param, grad, m] = inputs;
    return {
      kernel: 'adamw',
      params: { count: param.size, ...attrs, dtype: param.dtype, gradDtype: grad.dtype, momentDtype: m.dtype },
      buffers: [...inputs, ...outputs],
    };
  },
});

/**
 * One AdamW step, equal to `torch.optim.AdamW`: param − lr·((m/correction1) / (√(v/correction2) + eps) + weightDecay·param).
 *
 * @param param - any shape, float
 * @param grad - shape of param, float
 * @param m - first moment: shape of param, float
 * @param v - second moment: shape of param, dtype of m
 * @returns the next param, m and v
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function adamw(
  param: Value,
  grad: Value,
  m: Value,
  v: Value,
  { lr, gradScale, correction1, correction2 }: AdamwInputs,
  { beta1, beta2, eps, weightDecay }: AdamwOptions,
): [param: Value, m: Value, v: Value] {
  const options = { beta1, beta2, eps, weightDecay };
  return adamwOp.apply([param, grad, m, v, lr, gradScale, correction1, correction2], options);
}
