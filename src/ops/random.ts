// Counter-based random numbers: Philox4x32-10, Salmon et al. 2011; see native/ops/random.h. The key [seed, step] is a Value, so
// that a program need not change between steps; the stream, an attribute, tells the uses within a step apart.
import type { DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import type { Shape } from '../core/shape.js';
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';

/** Numbers shared with native/ops/random.h. */
const distributions = { uniform: 0, normal: 1, 'truncated-normal': 2 } as const;

/** What numbers to draw. */
export interface RandomOptions {
  /** 0 … 2³² − 1; equal key and stream give equal numbers. */
  stream: number;
  /**
   * `uniform` within mean ± √3·std; `normal`; `truncated-normal`: a normal that is drawn again until it lies within
   * mean ± 2·std (its standard deviation is then 0.88·std).
   */
  distribution: keyof typeof distributions;
  mean: number;
  std: number;
}

function expectKey(op: string, key: Value, stream: number): void {
  expectDType(op, 'key', key, 'int32');
  expectShape(op, 'key', key, [2]);
  if (!Number.isInteger(stream) || stream < 0 || stream >= 2 ** 32) {
    throw new HadalError('HADAL_ERR_USAGE', `[${op}] expected a stream from 0 to 2^32 - 1, got ${stream}`);
  }
}

const randomFillOp = defineOp<RandomOptions & { shape: Shape; dtype: DType }, [key: Value], [y: Value]>({
  name: 'random-fill',
  infer([key], { shape, dtype, stream }) {
    expectKey('random-fill', key, stream);
    return [{ shape, dtype }];
  },
  vjp: () => [null],
  cost: (_, [y]) => ({ flops: 60 * y.size, bytesRead: 0, bytesWritten: y.bytes }),
  kernel: ([key], [y], { stream, distribution, mean, std }) => ({
    kernel: 'random-fill',
    params: {
      count: sizeOf(y.shape),
      stream,
      distribution: distributions[distribution],
      mean,
      std,
      dtype: y.dtype,
    },
    buffers: [key, y],
  }),
});

/**
 * Random numbers. Element i depends on key, stream and i alone, not on the machine or its threads.
 *
 * @param key - [2], int32: seed and step
 * @returns `shape`, `dtype`
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE, HADAL_ERR_USAGE
 */
export function randomFill(key: Value, shape: Shape, dtype: DType, options: RandomOptions): Value {
  return randomFillOp.apply([key], { ...options, shape, dtype })[0];
}

/** Which elements to drop. */
export interface DropoutOptions {
  /** Share that is dropped, 0 ≤ p < 1. */
  probability: number;
  /** 0 … 2³² − 1; every dropout of a step has its own. */
  stream: number;
}

const dropoutOp = defineOp<Readonly<DropoutOptions>, [x: Value, key: Value], [y: Value]>({
  name: 'dropout',
  narrow: [0],
  infer([x, key], { probability, stream }) {
    expectDType('dropout', 'x', x, 'float');
    expectKey('dropout', key, stream);
    if (!(probability >= 0 && probability < 1)) {
      throw new HadalError('HADAL_ERR_USAGE', `[dropout] expected a probability from 0 to below 1, got ${probability}`);
    }
    return [{ shape: x.shape, dtype: x.dtype, extent: x.extent }];
  },
  // The mask is a function of key and stream: nothing is stored for the backward pass.
  vjp: ({ inputs: [, key], gradients: [dy], attrs }) => [dy && dropout(dy, key, attrs), null],
  cost: ([x], [y]) => ({ flops: 12 * x.size, bytesRead: x.bytes, bytesWritten: y.bytes }),
  kernel: ([x, key], [y], { probability, stream }) => ({
    kernel: 'dropout',
    params: { count: x.size, stream, probability, dtype: x.dtype },
    buffers: [x, key, y],
  }),
  inPlace: [[0, 0]],
});

/**
 * Dropout. Srivastava et al. 2014: zeroes a share of the elements at random and scales the rest by 1 / (1 − probability).
 *
 * @param x - float
 * @param key - [2], int32: seed and step
 * @returns shape and dtype of x
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE, HADAL_ERR_USAGE
 */
export function dropout(x: Value, key: Value, options: DropoutOptions): Value {
  return options.probability === 0 ? x : dropoutOp.apply([x, key], options)[0];
}
