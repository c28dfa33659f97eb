// Heads of multi-head latent attention. DeepSeek-V2, arXiv:2405.04434, eq. 10–16; formulas: native/ops/latent-heads.h.
// B batch, T tokens, H heads, D size of a query/key head, R rotary dims, E size of a value head, C = D − R + E, P positions.
import { HadalError } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import type { KernelCall } from '../graph/op.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';
import { cast } from './elementwise.js';
import { sum } from './reduce.js';
import { type RotaryLayout, rotary } from './rotary.js';
import { broadcastTo, concat, slice } from './shape.js';
import { zerosLike } from './sources.js';

type LatentHeadsAttrs = { layout: RotaryLayout };
type Places = [cos_PR2: Value, sin_PR2: Value, positions_BT: Value];
type Heads = [q_BTHD: Value, k_BTHD: Value, v_BTHE: Value];
type Sources = [q_BTHD: Value, keyValue_BTHC: Value, sharedKey_BT1R: Value];

const rotaryDims = (cos: Value) => 2 * (cos.shape[1] as number);
const dimOf = (x: Value) => x.shape[3] as number;

function kernelParams(q: Value, valueDim: number, cos: Value, positions: Value, { layout }: LatentHeadsAttrs) {
  return {
    tokens: positions.size,
    heads: q.shape[2] as number,
    dim: dimOf(q),
    valueDim,
    rotaryDims: rotaryDims(cos),
    positions: cos.shape[0] as number,
    interleaved: Number(layout === 'interleaved'),
    dtype: q.dtype,
  } satisfies KernelCall['params'];
}

const latentHeadsOp = defineOp<LatentHeadsAttrs, [...Sources, ...Places], Heads>({
  name: 'latent-heads',
  narrow: [0, 1, 2],
  inPlace: [[0, 0]],
  infer([q, keyValue, sharedKey, cos, sin, positions]) {
    const op = 'latent-heads';
    expectDType(op, 'q', q, 'float');
    expectDType(op, 'keyValue', keyValue, q.dtype);
    expectDType(op, 'sharedKey', sharedKey, q.dtype);
    expectDType(op, 'cos', cos, 'fp32');
    expectDType(op, 'sin', sin, 'fp32');
    expectDType(op, 'positions', positions, 'int32');
    expectRank(op, 'q', q, 4);
    expectRank(op, 'cos', cos, 2);
    expectShape(op, 'sin', sin, cos.shape);
    const [batch, tokens, heads, dim] = q.shape as [number, number, number, number];
    const plain = dim - rotaryDims(cos);
    if (plain < 0) {
      const got = `${rotaryDims(cos)} of ${dim}`;
      throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected rotary dims within a head of q, got ${got}`);
    }
    expectShape(op, 'keyValue', keyValue, [batch, tokens, heads, null]);
    expectShape(op, 'sharedKey', sharedKey, [batch, tokens, 1, rotaryDims(cos)]);
    expectShape(op, 'positions', positions, [batch, tokens]);
    const valueDim = dimOf(keyValue) - plain;
    if (valueDim < 0) {
      const got = keyValue.type;
      throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected keyValue of ${plain} dims or more, got ${got}`);
    }
    const { dtype } = q;
    return [
      { shape: q.shape, dtype },
      { shape: q.shape, dtype },
      { shape: [batch, tokens, heads, valueDim], dtype },
    ];
  },
  vjp({ inputs: [, , , ...places], outputs, gradients, attrs }) {
    const [dq, dk, dv] = outputs.map((output, i) => gradients[i] ?? zerosLike(output)) as Heads;
    return [...latentHeadsBackwardOp.apply([dq, dk, dv, ...places], attrs), null, null, null];
  },
  lower([q, keyValue, sharedKey, cos, sin, positions], { layout }) {
    const plain = dimOf(q) - rotaryDims(cos);
    const shared = rotary(sharedKey, cos, sin, positions, { layout });
    const everyHead = broadcastTo(shared, [...q.shape.slice(0, 3), rotaryDims(cos)]);
    return [
      rotary(q, cos, sin, positions, { layout, offset: plain }),
      concat([slice(keyValue, 3, 0, plain), everyHead], 3),
      slice(keyValue, 3, plain, dimOf(keyValue)),
    ];
  },
  cost: ([q, keyValue, sharedKey], [, k, v]) => ({
    flops: 3 * ((q.size / (dimOf(q) || 1)) * dimOf(sharedKey) + sharedKey.size),
    bytesRead: q.bytes + keyValue.bytes + sharedKey.bytes,
    bytesWritten: q.bytes + k.bytes + v.bytes,
  }),
  kernel: ([q, keyValue, sharedKey, cos, sin, positions], outputs, attrs) => ({
    kernel: 'latent-heads',
    params: kernelParams(q, dimOf(outputs[2]), cos, positions, attrs),
    buffers: [q, keyValue, sharedKey, cos, sin, positions, ...outputs],
  }),
});

const latentHeadsBackwardOp = defineOp<LatentHeadsAttrs, [...Heads, ...Places], Sources>({
  name: 'latent-heads-backward',
  inPlace: [[0, 0]],
  infer([dq, , dv, cos]) {
    const { dtype, shape } = dq;
    const plain = dimOf(dq) - rotaryDims(cos);
    return [
      { shape, dtype },
      { shape: [...shape.slice(0, 3), plain + dimOf(dv)], dtype },
      { shape: [...shape.slice(0, 2), 1, rotaryDims(cos)], dtype },
    ];
  },
  lower([dq, dk, dv, cos, sin, positions], { layout }) {
    const plain = dimOf(dq) - rotaryDims(cos);
    const back = { layout, inverse: true };
    const everyHead = cast(slice(dk, 3, plain, dimOf(dk)), 'fp32');
    return [
      rotary(dq, cos, sin, positions, { ...back, offset: plain }),
      concat([slice(dk, 3, 0, plain), dv], 3),
      cast(rotary(sum(everyHead, [2], true), cos, sin, positions, back), dk.dtype),
    ];
  },
  cost: ([dq, dk, dv], [, dkeyValue, dsharedKey]) => ({
    flops: 4 * ((dq.size / (dimOf(dq) || 1)) * dimOf(dsharedKey)),
    bytesRead: dq.bytes + dk.bytes + dv.bytes,
    bytesWritten: dq.bytes + dkeyValue.bytes + dsharedKey.bytes,
  }),
  kernel: ([dq, dk, dv, cos, sin, positions], outputs, attrs) => ({
    kernel: 'latent-heads-backward',
    params: kernelParams(dq, dimOf(dv), cos, positions, attrs),
    buffers: [dq, dk, dv, cos, sin, positions, ...outputs],
  }),
});

/** What {@link latentHeads} makes heads of. */
export interface LatentHeadsInputs {
  /** [B, T, H, D], float; its last R dims are rotated. */
  q: Value;
  /** [B, T, H, D − R + E], dtype of q: each head's key dims without position, then its value. */
  keyValue: Value;
  /** [B, T, 1, R], dtype of q: the key dims that all heads share, not yet rotated. */
  sharedKey: Value;
  /** fp32 [P, R/2], as of `rotaryTables`. */
  cos: Value;
  /** fp32 [P, R/2]. */
  sin: Value;
  /** int32 [B, T], rows of the tables. */
  positions: Value;
  layout: RotaryLayout;
}

/**
 * Queries, keys and values of latent attention in one pass over memory: what `rotary`, `slice`, `broadcastTo` and `concat`
 * make of the same inputs. Models write those; the pass `fuse-latent-heads` puts this in their place. No gradient flows to
 * the tables. The run fails on a position outside of them.
 *
 * @returns q [B, T, H, D], k [B, T, H, D], v [B, T, H, E], dtype of q
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function latentHeads(inputs: LatentHeadsInputs): { q: Value; k: Value; v: Value } {
  const { q, keyValue, sharedKey, cos, sin, positions, layout } = inputs;
  const heads = latentHeadsOp.apply([q, keyValue, sharedKey, cos, sin, positions], { layout });
  return { q: heads[0], k: heads[1], v: heads[2] };
}
