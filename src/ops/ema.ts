// Running means of several tensors. Formula: native/ops/ema.h.
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import { countsOf, dtypesOf, expectNumbers, inCalls, maxTensors, passCost, totalSize } from './tensor-list.js';

const tensorsOf = (inputs: readonly Value[]) =>
  Array.from({ length: (inputs.length - 1) / 2 }, (_, i) => {
    const [x, mean] = inputs.slice(1 + 2 * i) as [Value, Value];
    return { x, mean };
  });

const emaOp = defineOp<Record<never, never>, readonly Value[], readonly Value[]>({
  name: 'ema',
  infer(inputs) {
    expectNumbers('ema', ['rest'], inputs);
    return tensorsOf(inputs).map(({ x, mean }) => {
      expectDType('ema', 'x', x, 'float');
      expectDType('ema', 'mean', mean, 'fp32');
      expectShape('ema', 'mean', mean, x.shape);
      return { shape: mean.shape, dtype: mean.dtype };
    });
  },
  inPlace: Array.from({ length: maxTensors }, (_, i) => [i, 2 + 2 * i] as const),
  cost: (inputs, outputs) => passCost(3 * totalSize(outputs), inputs, outputs),
  kernel(inputs, outputs) {
    const tensors = tensorsOf(inputs);
    const xs = tensors.map(({ x }) => x);
    return {
      kernel: 'ema',
      params: { tensors: tensors.length, count: countsOf(xs), dtype: dtypesOf(xs) },
      buffers: [inputs[0] as Value, ...tensors.flatMap(({ x, mean }, i) => [x, mean, outputs[i] as Value])],
    };
  },
});

/**
 * mean + rest·(x − mean) of any number of tensors: running means with decay 1 − rest.
 *
 * @param tensors - x of any shape, float; mean fp32 in its shape
 * @param rest - fp32 [1]; 1: the mean becomes x
 * @returns the next mean of each
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function ema(tensors: readonly { x: Value; mean: Value }[], rest: Value): Value[] {
  return inCalls(tensors, ({ x }) => x.size).flatMap((call) =>
    emaOp.apply([rest, ...call.flatMap(({ x, mean }) => [x, mean])], {}),
  );
}
