// Rotary position embedding. Su et al. 2021, arXiv:2104.09864, eq. 34.
// B batch, T tokens, N heads, D head size, R rotary dims (even), P positions.
import { HadalError } from '../core/errors.js';
import type { Node, Value } from '../graph/graph.js';
import type { OpDefinition } from '../graph/op.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';
import { add, cast, multiply, negate, subtract } from './elementwise.js';
import { embedding } from './embedding.js';
import { concat, reshape, slice } from './shape.js';

/** Which dims turn together: `interleaved` 2j and 2j + 1, `half` j and j + R/2. */
export type RotaryLayout = 'interleaved' | 'half';

type RotaryAttrs = { layout: RotaryLayout; offset: number; inverse: boolean };

const rotaryOp = defineOp<RotaryAttrs, [x_BTND: Value, cos_PR2: Value, sin_PR2: Value, positions_BT: Value], [Value]>({
  name: 'rotary',
  narrow: [0],
  inPlace: [[0, 0]],
  infer([x, cos, sin, positions], { offset }) {
    expectDType('rotary', 'x', x, 'float');
    expectDType('rotary', 'cos', cos, 'fp32');
    expectDType('rotary', 'sin', sin, 'fp32');
    expectDType('rotary', 'positions', positions, 'int32');
    expectRank('rotary', 'x', x, 4);
    expectRank('rotary', 'cos', cos, 2);
    expectShape('rotary', 'sin', sin, cos.shape);
    expectShape('rotary', 'positions', positions, x.shape.slice(0, 2));
    const rotaryDims = 2 * (cos.shape[1] as number);
    const dim = x.shape[3] as number;
    if (offset < 0 || offset + rotaryDims > dim) {
      const got = `${rotaryDims} from ${offset} on`;
      throw new HadalError('HADAL_ERR_SHAPE', `[rotary] expected rotary dims within a head of ${dim}, got ${got}`);
    }
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  // A rotation's transpose turns back.
  vjp: ({ inputs: [, cos, sin, positions], gradients: [dy], attrs }) => [
    dy && rotary(dy, cos, sin, positions, { ...attrs, inverse: !attrs.inverse }),
    null,
    null,
    null,
  ],
  lower([x, cosTable, sinTable, positions], { layout, offset, inverse }) {
    const [batch, tokens, heads, dim] = x.shape as [number, number, number, number];
    const pairs = cosTable.shape[1] as number;
    const end = offset + 2 * pairs;
    // Pairs as […, R/2, 2] or […, 2, R/2]; both halves and the tables as […, R/2, 1] or […, 1, R/2].
    const axis = layout === 'interleaved' ? 4 : 3;
    const split = (two: number) => [batch, tokens, heads, ...(layout === 'interleaved' ? [pairs, two] : [two, pairs])];
    const angles = (table: Value) => {
      const rows = embedding(table, positions);
      return reshape(rows, [batch, tokens, 1, ...split(1).slice(3)]);
    };
    const rotated = reshape(slice(cast(x, 'fp32'), 3, offset, end), split(2));
    const [a, b] = [slice(rotated, axis, 0, 1), slice(rotated, axis, 1, 2)];
    const cos = angles(cosTable);
    const sin = inverse ? negate(angles(sinTable)) : angles(sinTable);
    const turned = concat(
      [subtract(multiply(a, cos), multiply(b, sin)), add(multiply(a, sin), multiply(b, cos))],
      axis,
    );
    const middle = cast(reshape(turned, [batch, tokens, heads, 2 * pairs]), x.dtype);
    return [concat([slice(x, 3, 0, offset), middle, slice(x, 3, end, dim)], 3)];
  },
  cost: ([x, cos], [y]) => ({
    flops: ((6 * x.size) / (x.shape[3] || 1)) * (cos.shape[1] as number),
    bytesRead: x.bytes,
    bytesWritten: y.bytes,
  }),
  kernel: ([x, cos, sin, positions], [y], { layout, offset, inverse }) => ({
    kernel: 'rotary',
    params: {
      tokens: positions.size,
      heads: x.shape[2] as number,
      dim: x.shape[3] as number,
      offset,
      rotaryDims: 2 * (cos.shape[1] as number),
      positions: cos.shape[0] as number,
      interleaved: Number(layout === 'interleaved'),
      inverse: Number(inverse),
      dtype: x.dtype,
    },
    buffers: [x, cos, sin, positions, y],
  }),
});

/** How {@link rotary} turns a head. */
export interface RotaryOptions {
  layout: RotaryLayout;
  /** First rotary dim of a head (default 0); R dims from there are rotated, the others copied. */
  offset?: number;
  /** Turns back. */
  inverse?: boolean;
}

/**
 * Rotates each pair (a, b) of a head's rotary dims to (a·cos − b·sin, a·sin + b·cos). No gradient flows to the tables.
 * The run fails on a position outside the tables.
 *
 * @param x - [B, T, N, D], float
 * @param cos - fp32 [P, R/2], as of `rotaryTables`
 * @param sin - fp32 [P, R/2]
 * @param positions - int32 [B, T], rows of the tables
 * @returns [B, T, N, D], dtype of x
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function rotary(x: Value, cos: Value, sin: Value, positions: Value, options: RotaryOptions): Value {
  const { layout, offset = 0, inverse = false } = options;
  return rotaryOp.apply([x, cos, sin, positions], { layout, offset, inverse })[0];
}

/** What a node rotates, where it is a {@link rotary}; else null. */
export function rotaryOf(
  node: Node,
): (Required<RotaryOptions> & { x: Value; cos: Value; sin: Value; positions: Value }) | null {
  if (node.op !== (rotaryOp as unknown as OpDefinition)) return null;
  const [x, cos, sin, positions] = node.inputs as [Value, Value, Value, Value];
  return { x, cos, sin, positions, ...(node.attrs as RotaryAttrs) };
}
