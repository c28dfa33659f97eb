// Linear layer and cross-entropy in one: the logits exist for some rows at a time, and the gradients are computed while they
// do, so that a vocabulary of any size fits. Formulas and sources: native/ops/linear-cross-entropy.h.
// N rows, V vocabulary, D features.
import { type DType, isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';
import { add, equal, exp, log, multiply, square, stopGradient, subtract } from './elementwise.js';
import { matmul } from './matmul.js';
import { max, sum } from './reduce.js';
import { reshape } from './shape.js';
import { iota } from './sources.js';

type LossAttrs = {
  labelSmoothing: number;
  zLoss: number;
  ignoreIndex: number;
  /** Rows whose logits exist at a time; 0: as many as run fastest. */
  chunkRows: number;
  /** Of dweight; null: the weight's own. */
  gradientDType: DType | null;
};
type LossInputs = [hidden: Value, weight: Value, labels: Value, scale: Value];
type LossOutputs = [loss: Value, dhidden: Value, dweight: Value, losses: Value];

/** Whether a value is the number 1, known now: the gradient that backpropagation starts with. */
function isConstantOne(value: Value): boolean {
  const { op, inputs, attrs } = value.node;
  if (op.isView && inputs[0]) return isConstantOne(inputs[0]);
  return op.isSource === true && attrs.data instanceof Float32Array && attrs.data.every((number) => number === 1);
}

const linearCrossEntropyOp = defineOp<LossAttrs, LossInputs, LossOutputs>({
  name: 'linear-cross-entropy',
  narrow: [0, 1],
  // hidden · (a·b)ᵀ = (hidden · bᵀ) · aᵀ; the gradients are then by other values.
  ofProduct(index, a, b, [hidden, , labels, scale], attrs) {
    if (index !== 1) return null;
    const inner = matmul(hidden, b, { transposeB: true });
    const { loss, losses } = linearCrossEntropy(inner, a, labels, scale, attrs);
    return [loss, null, null, losses];
  },
  // dweight is summed in fp32 whatever it is given in.
  retype: (attrs, index, dtype) => (index === 2 && isFloat(dtype) ? { ...attrs, gradientDType: dtype } : null),
  infer([hidden, weight, labels, scale], { labelSmoothing, zLoss, gradientDType }) {
    const name = 'linear-cross-entropy';
    expectRank(name, 'hidden', hidden, 2);
    const [rows, dim] = hidden.shape as [number, number];
    expectShape(name, 'weight', weight, [null, dim]);
    expectShape(name, 'labels', labels, [rows]);
    expectShape(name, 'scale', scale, [1]);
    expectDType(name, 'hidden', hidden, 'float');
    expectDType(name, 'weight', weight, 'float');
    expectDType(name, 'labels', labels, 'int32');
    expectDType(name, 'scale', scale, 'fp32');
    if (hidden.extent) {
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[${name}] expected all rows of hidden in use, got a bounded extent; ignore rows by label`,
      );
    }
    if (!(labelSmoothing >= 0 && labelSmoothing <= 1 && zLoss >= 0)) {
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[${name}] expected labelSmoothing in 0..1 and zLoss >= 0, got ${labelSmoothing} and ${zLoss}`,
      );
    }
    return [
      { shape: [1], dtype: 'fp32' },
      { shape: hidden.shape, dtype: hidden.dtype },
      { shape: weight.shape, dtype: gradientDType ?? weight.dtype },
      { shape: [rows], dtype: 'fp32' },
    ];
  },
  vjpOutputs: [0],
  vjp({ outputs: [, dhidden, dweight, losses], gradients: [dy], needs }) {
    if (!dy) return [null, null, null, null];
    const scaled = (gradient: Value) => (isConstantOne(dy) ? gradient : multiply(gradient, dy));
    return [
      needs[0] ? scaled(dhidden) : null,
      needs[1] ? scaled(dweight) : null,
      null,
      needs[3] ? multiply(dy, sum(losses, [0], true)) : null,
    ];
  },
  lower([hidden, weight, labels, scale], { labelSmoothing, zLoss, ignoreIndex, gradientDType }) {
    const vocab = weight.shape[0] as number;
    const columns = reshape(labels, [-1, 1]);
    const isLabel = equal(columns, iota(labels.node.graph, vocab));
    const isValid = subtract(1, equal(columns, ignoreIndex));
    const target = add(multiply(isLabel, 1 - labelSmoothing), labelSmoothing / vocab);

    const logits = matmul(hidden, weight, { transposeB: true, outputDType: 'fp32' });
    const shift = stopGradient(max(logits, [1], true));
    const lse = add(log(sum(exp(subtract(logits, shift)), [1], true)), shift);
    const crossEntropy = subtract(lse, sum(multiply(target, logits), [1], true));
    const losses = multiply(isValid, add(crossEntropy, multiply(square(lse), zLoss)));

    const probabilities = exp(subtract(logits, lse));
    const slope = subtract(multiply(probabilities, add(multiply(lse, 2 * zLoss), 1)), target);
    const dlogits = multiply(multiply(slope, isValid), scale);
    return [
      multiply(scale, reshape(sum(losses, [0, 1]), [1])),
      matmul(dlogits, weight, { outputDType: hidden.dtype }),
      matmul(dlogits, hidden, { transposeA: true, outputDType: gradientDType ?? weight.dtype }),
      reshape(losses, [-1]),
    ];
  },
  cost([hidden, weight], [, , dweight], { chunkRows }) {
    const rows = hidden.shape[0] as number;
    const chunks = chunkRows > 0 ? Math.ceil(rows / chunkRows) : 1;
    return {
      flops: 6 * hidden.size * (weight.shape[0] as number),
      bytesRead: 2 * hidden.bytes + 2 * chunks * weight.bytes,
      bytesWritten: hidden.bytes + chunks * dweight.bytes,
    };
  },
  kernel: ([hidden, weight, labels, scale], outputs, { labelSmoothing, zLoss, ignoreIndex, chunkRows }) => ({
    kernel: 'linear-cross-entropy',
    params: {
      rows: hidden.shape[0] as number,
      vocab: weight.shape[0] as number,
      dim: hidden.shape[1] as number,
      ignoreIndex,
      chunkRows,
      labelSmoothing,
      zLoss,
      dtypeH: hidden.dtype,
      dtypeW: weight.dtype,
      dtypeDW: outputs[2].dtype,
    },
    buffers: [hidden, weight, labels, scale, ...outputs],
  }),
});

/**
 * Cross-entropy of softmax(hidden · weightᵀ) against labels, without ever holding all logits.
 *
 * @param hidden - [N, D], float
 * @param weight - [V, D], float
 * @param labels - int32 [N], in 0..V−1, or `ignoreIndex` for a row that does not count; others end the step with an error
 * @param scale - fp32 [1]: what the sum over rows is multiplied by, 1 / (labels that count) for their mean
 * @param options - `labelSmoothing`: share of the target spread evenly over the vocabulary (default 0);
 *   `zLoss`: weight of logsumexp², which keeps logits from drifting (default 0);
 *   `ignoreIndex` (default −100);
 *   `chunkRows`: rows whose logits exist at a time, fewer take less memory and more time (default 0: as many as run fastest)
 * @returns `loss` fp32 [1] = scale · Σ losses, and `losses` fp32 [N], a row's own loss, 0 where ignored
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE, HADAL_ERR_CONFIG
 */
export function linearCrossEntropy(
  hidden: Value,
  weight: Value,
  labels: Value,
  scale: Value,
  options: { labelSmoothing?: number; zLoss?: number; ignoreIndex?: number; chunkRows?: number } = {},
): { loss: Value; losses: Value } {
  const { labelSmoothing = 0, zLoss = 0, ignoreIndex = -100, chunkRows = 0 } = options;
  const attrs = { labelSmoothing, zLoss, ignoreIndex, chunkRows, gradientDType: null };
  const [loss, , , losses] = linearCrossEntropyOp.apply([hidden, weight, labels, scale], attrs);
  return { loss, losses };
}
