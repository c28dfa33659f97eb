// Collectives over an axis of the device mesh, on the communication queue: what follows them may run meanwhile. Formulas:
// native/ops/collectives.h. All ranks run the same collectives in the same order.
import type { DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { type MeshAxis, meshAxes } from '../core/mesh.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Node, Value } from '../graph/graph.js';
import { graphOf } from '../graph/graph.js';
import type { Inputs, OpDefinition } from '../graph/op.js';
import { defineOp, expectDType, type Op } from './define-op.js';

/** Tensors of one call: `maxCollective` of native/ops/collectives.h. */
const maxTensors = 64;

/** Who takes part. */
export interface Ranks {
  axis: MeshAxis;
  /** Ranks on the axis; 1: nobody else, and what comes back is what went in. */
  size: number;
  /** Whether the call is made as soon as its tensor is there, instead of waiting for others to be one call with. */
  isUrgent?: boolean;
}

/** How numbers of several ranks become one. */
export interface Reduction extends Ranks {
  op: 'sum' | 'min' | 'max';
  /** Format in which sums travel, to which every addend and every sum is rounded. */
  wire: Extract<DType, 'fp32' | 'bf16' | 'fp16'>;
}

const operations = ['sum', 'min', 'max'] as const;

/** A field of a kernel's params that has an entry for each tensor. */
const padded = <T>(items: readonly T[], filler: T): T[] => [
  ...items,
  ...Array<T>(maxTensors - items.length).fill(filler),
];

/** Numbers of a rank's share: the last ones are padded with zeros. */
export const shareSize = (numbers: number, ranks: number): number => Math.ceil(numbers / ranks);

const rankParams = ({ axis, size }: Ranks) => ({ axis: meshAxes.indexOf(axis), size });
const reductionParams = ({ op, wire, axis, size }: Reduction) => ({
  ...rankParams({ axis, size }),
  op: operations.indexOf(op),
  wire,
});

const isUrgent = ({ isUrgent = false }: Ranks): boolean => isUrgent;

/** Calls with equal attributes may be one. */
const joined = <A extends Ranks>() => ({
  most: maxTensors,
  isUrgent,
  key: (attrs: A) => JSON.stringify(attrs),
  attrs: (calls: readonly A[]) => calls[0] as A,
});

function expectFp32(op: string, inputs: Inputs): void {
  for (const x of inputs) {
    expectDType(op, 'x', x as Value, 'fp32');
    if (x?.extent) throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected all of x in use, got a bounded extent`);
  }
}

/** Applies a collective to any number of tensors. */
function apply<A extends object>(op: Op<A, readonly Value[], readonly Value[]>, tensors: readonly Value[], attrs: A) {
  return tensors.map((tensor) => communicating([tensor], () => op.apply([tensor], attrs))[0] as Value);
}

const communicating = (inputs: Inputs, body: () => readonly Value[]) => graphOf(inputs).onQueue('communication', body);

const inPlace = Array.from({ length: maxTensors }, (_, i) => [i, i] as const);

const allReduceOp = defineOp<Reduction, readonly Value[], readonly Value[]>({
  name: 'all-reduce',
  infer(inputs) {
    expectFp32('all-reduce', inputs);
    return inputs.map(({ shape, dtype }) => ({ shape, dtype }));
  },
  inPlace,
  join: joined<Reduction>(),
  kernel: (inputs, outputs, attrs) => ({
    kernel: 'all-reduce',
    params: { tensors: inputs.length, ...reductionParams(attrs), count: counts(inputs) },
    buffers: [...inputs, ...outputs],
  }),
});

const counts = (tensors: readonly Value[]): number[] =>
  padded(
    tensors.map(({ size }) => size),
    0,
  );

const dtypes = (tensors: readonly Value[]): DType[] =>
  padded<DType>(
    tensors.map(({ dtype }) => dtype),
    'fp32',
  );

/**
 * Each tensor reduced over the ranks of an axis, with the same bits on all of them.
 *
 * @param tensors - fp32, any shapes, the same on all ranks
 * @throws HadalError HADAL_ERR_DTYPE, HADAL_ERR_SHAPE
 */
export const allReduce = (tensors: readonly Value[], reduction: Reduction): Value[] =>
  apply(allReduceOp, tensors, reduction);

const reduceScatterOp = defineOp<Reduction, readonly Value[], readonly Value[]>({
  name: 'reduce-scatter',
  infer(inputs, { size }) {
    expectFp32('reduce-scatter', inputs);
    return inputs.map((x) => ({ shape: [shareSize(x.size, size)], dtype: x.dtype }));
  },
  join: joined<Reduction>(),
  kernel: (inputs, outputs, attrs) => ({
    kernel: 'reduce-scatter',
    params: { tensors: inputs.length, ...reductionParams(attrs), count: counts(inputs) },
    buffers: [...inputs, ...outputs],
  }),
});

/**
 * This rank's share of each reduced tensor: its numbers in a row, ⌈numbers / ranks⌉ of them; beyond the tensor's end, zeros.
 *
 * @param tensors - fp32, any shapes, the same on all ranks
 * @returns fp32 [⌈numbers / ranks⌉] each
 * @throws HadalError HADAL_ERR_DTYPE, HADAL_ERR_SHAPE
 */
export const reduceScatter = (tensors: readonly Value[], reduction: Reduction): Value[] =>
  apply(reduceScatterOp, tensors, reduction);

/** `shapes`: of what is gathered. */
type AllGatherAttrs = Ranks & { shapes: readonly Shape[] };

const allGatherOp = defineOp<AllGatherAttrs, readonly Value[], readonly Value[]>({
  name: 'all-gather',
  infer(inputs, { size, shapes }) {
    return inputs.map((x, i) => {
      const shape = shapes[i] as Shape;
      const share = shareSize(sizeOf(shape), size);
      if (x.size !== share) {
        throw new HadalError('HADAL_ERR_SHAPE', `[all-gather] expected a share of ${share} numbers, got ${x.type}`);
      }
      return { shape, dtype: x.dtype };
    });
  },
  join: {
    most: maxTensors,
    isUrgent,
    key: ({ axis, size }) => `${axis} ${size}`,
    attrs: (calls) => ({ ...(calls[0] as AllGatherAttrs), shapes: calls.flatMap(({ shapes }) => shapes) }),
  },
  kernel: (inputs, outputs, attrs) => ({
    kernel: 'all-gather',
    params: { tensors: inputs.length, ...rankParams(attrs), count: counts(outputs), dtype: dtypes(outputs) },
    buffers: [...inputs, ...outputs],
  }),
});

/**
 * Tensors of which every rank has a share.
 *
 * @param shares - this rank's, any dtype, `shape` in rows cut to ⌈numbers / ranks⌉ numbers
 * @throws HadalError HADAL_ERR_SHAPE
 */
export const allGather = (shares: readonly { share: Value; shape: Shape }[], ranks: Ranks): Value[] =>
  shares.map(
    ({ share, shape }) =>
      communicating([share], () => allGatherOp.apply([share], { ...ranks, shapes: [shape] }))[0] as Value,
  );

/** Whether a node is an {@link allGather}. */
export const isAllGather = ({ op }: Node): boolean => op === (allGatherOp as unknown as OpDefinition);

const allToAllOp = defineOp<Ranks, readonly Value[], readonly Value[]>({
  name: 'all-to-all',
  infer(inputs, { size }) {
    return inputs.map(({ shape, dtype, type }) => {
      if (shape[0] !== size) {
        throw new HadalError('HADAL_ERR_SHAPE', `[all-to-all] expected x of ${size} parts, got ${type}`);
      }
      return { shape, dtype };
    });
  },
  join: joined<Ranks>(),
  kernel: (inputs, outputs, attrs) => ({
    kernel: 'all-to-all',
    params: {
      ...{ tensors: inputs.length, ...rankParams(attrs) },
      count: counts(inputs).map((count) => count / attrs.size),
      dtype: dtypes(inputs),
    },
    buffers: [...inputs, ...outputs],
  }),
});

/**
 * Part r of each result is this rank's part of rank r's tensor.
 *
 * @param tensors - [ranks, …], any dtype, the same shapes on all ranks
 * @throws HadalError HADAL_ERR_SHAPE
 */
export const allToAll = (tensors: readonly Value[], ranks: Ranks): Value[] => apply(allToAllOp, tensors, ranks);

type BroadcastFromAttrs = Ranks & { root: number };

const broadcastFromOp = defineOp<BroadcastFromAttrs, readonly Value[], readonly Value[]>({
  name: 'broadcast-from',
  infer: (inputs) => inputs.map(({ shape, dtype }) => ({ shape, dtype })),
  inPlace,
  join: joined<BroadcastFromAttrs>(),
  kernel: (inputs, outputs, attrs) => ({
    kernel: 'broadcast-from',
    params: {
      ...{ tensors: inputs.length, ...rankParams(attrs), root: attrs.root },
      ...{ count: counts(inputs), dtype: dtypes(inputs) },
    },
    buffers: [...inputs, ...outputs],
  }),
});

/** Each tensor as rank `root` has it. @param tensors - any shapes and dtypes, the same on all ranks */
export const broadcastFrom = (tensors: readonly Value[], ranks: Ranks, root: number): Value[] =>
  apply(broadcastFromOp, tensors, { ...ranks, root });
