import type { DType } from '../core/dtype.js';
import type { Shape } from '../core/shape.js';
import type { Value } from './graph.js';
import type { OpDefinition } from './op.js';

type SourceAttrs = { name: string; shape: Shape; dtype: DType };

const source = (name: string): OpDefinition<SourceAttrs, [], [Value]> => ({
  name,
  isSource: true,
  infer: (_, { shape, dtype }) => [{ shape, dtype }],
  cost: () => ({ flops: 0, bytesRead: 0, bytesWritten: 0 }),
});

/** Data handed in with every run. */
export const inputOp = source('input');

/** State that lives across runs. */
export const slotOp = source('slot');

/** Data fixed at trace time; it travels inside the program. */
export const constantOp: OpDefinition<{ data: Float32Array | Int32Array; shape: Shape }, [], [Value]> = {
  name: 'constant',
  isSource: true,
  infer: (_, { data, shape }) => [{ shape, dtype: data instanceof Int32Array ? 'int32' : 'fp32' }],
  cost: () => ({ flops: 0, bytesRead: 0, bytesWritten: 0 }),
};

/** The same memory under another name. */
export const aliasOp: OpDefinition<Record<never, never>, [x: Value], [Value]> = {
  name: 'alias',
  isView: true,
  infer: ([x]) => [{ shape: x.shape, dtype: x.dtype, extent: x.extent }],
  vjp: ({ gradients: [dy] }) => [dy],
};
