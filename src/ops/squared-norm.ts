// Squared Euclidean norm of several tensors together, in one sweep. Formula: native/ops/squared-norm.h.
import type { DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType } from './define-op.js';
import { cast } from './elementwise.js';
import { sum, sumOfSquares } from './reduce.js';
import { concat, reshape } from './shape.js';

/** Tensors of one call: `maxTensors` of native/ops/squared-norm.h. */
const maxTensors = 128;

const squaredNormOp = defineOp<object, readonly Value[], [Value]>({
  name: 'squared-norm',
  infer(inputs) {
    for (const x of inputs) {
      expectDType('squared-norm', 'x', x, 'float');
      if (x.extent) {
        throw new HadalError('HADAL_ERR_SHAPE', '[squared-norm] expected all of x in use, got a bounded extent');
      }
    }
    return [{ shape: [1], dtype: 'fp32' }];
  },
  lower(inputs) {
    const squares = inputs.map((x) =>
      sumOfSquares(
        cast(x, 'fp32'),
        x.shape.map((_, axis) => axis),
      ),
    );
    return [
      sum(
        concat(
          squares.map((square) => reshape(square, [1])),
          0,
        ),
        [0],
        true,
      ),
    ];
  },
  cost: (inputs) => ({
    flops: 2 * inputs.reduce((total, { size }) => total + size, 0),
    bytesRead: inputs.reduce((total, { bytes }) => total + bytes, 0),
    bytesWritten: 4,
  }),
  kernel(inputs, outputs) {
    const padding = maxTensors - inputs.length;
    return {
      kernel: 'squared-norm',
      params: {
        tensors: inputs.length,
        count: [...inputs.map(({ size }) => size), ...Array<number>(padding).fill(0)],
        dtype: [...inputs.map(({ dtype }) => dtype), ...Array<DType>(padding).fill('fp32')],
      },
      buffers: [...inputs, ...outputs],
    };
  },
});

/**
 * Σ x² over all numbers of all tensors.
 *
 * @param tensors - at least one; any shapes, float
 * @returns fp32 [1]; infinite where a square is beyond fp32
 * @throws HadalError HADAL_ERR_DTYPE, HADAL_ERR_SHAPE
 */
export function squaredNorm(tensors: readonly Value[]): Value {
  const groups = Array.from({ length: Math.ceil(tensors.length / maxTensors) }, (_, i) =>
    tensors.slice(i * maxTensors, (i + 1) * maxTensors),
  );
  const norms = groups.map((group) => squaredNormOp.apply(group, {})[0]);
  return norms.length === 1 ? (norms[0] as Value) : sum(concat(norms, 0), [0], true);
}
