// SwiGLU. Shazeer 2020, arXiv:2002.05202, eq. 6: y = silu(gate) · up, [gate | up] = gateUp along the last dim.
// I features. The extent of gateUp is an input of its own, so that whatever runs the ops sees the dependency.
import { HadalError } from '../core/errors.js';
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType } from './define-op.js';
import { add, cast, multiply, sigmoid, silu, subtract } from './elementwise.js';
import { concat, slice } from './shape.js';

type NoAttrs = Record<never, never>;

const kernelParams = (y: Value) => ({
  entries: y.shape.length > 1 ? (y.shape[0] as number) : 1,
  inner: sizeOf(y.shape.slice(1, -1)),
  dim: y.shape.at(-1) as number,
  dtype: y.dtype,
});

const swigluOp = defineOp<NoAttrs, [gateUp: Value, extent: Value | null], [y: Value]>({
  name: 'swiglu',
  narrow: [0],
  infer([gateUp, extent]) {
    expectDType('swiglu', 'gateUp', gateUp, 'float');
    const last = gateUp.shape.at(-1);
    if (!last || last % 2 !== 0) {
      throw new HadalError('HADAL_ERR_SHAPE', `[swiglu] expected an even last dim (gate, then up), got ${gateUp.type}`);
    }
    return [{ shape: [...gateUp.shape.slice(0, -1), last / 2], dtype: gateUp.dtype, extent }];
  },
  vjp: ({ inputs: [gateUp, extent], gradients: [dy] }) => [
    dy && swigluBackwardOp.apply([dy, gateUp, extent], {})[0],
    null,
  ],
  lower([gateUp]) {
    const last = gateUp.shape.length - 1;
    const features = (gateUp.shape[last] as number) / 2;
    const gate = cast(slice(gateUp, last, 0, features), 'fp32');
    return [cast(multiply(silu(gate), slice(gateUp, last, features, 2 * features)), gateUp.dtype)];
  },
  cost: ([gateUp], [y]) => ({ flops: 10 * y.size, bytesRead: gateUp.bytes, bytesWritten: y.bytes }),
  kernel: ([gateUp, extent], [y]) => ({ kernel: 'swiglu', params: kernelParams(y), buffers: [gateUp, extent, y] }),
});

const swigluBackwardOp = defineOp<NoAttrs, [dy: Value, gateUp: Value, extent: Value | null], [dgateUp: Value]>({
  name: 'swiglu-backward',
  infer: ([, gateUp, extent]) => [{ shape: gateUp.shape, dtype: gateUp.dtype, extent }],
  lower([dy, gateUp]) {
    const last = gateUp.shape.length - 1;
    const features = dy.shape[last] as number;
    const g = cast(dy, 'fp32');
    const gate = cast(slice(gateUp, last, 0, features), 'fp32');
    const up = slice(gateUp, last, features, 2 * features);
    const s = sigmoid(gate);
    const dgate = multiply(multiply(g, up), multiply(s, add(multiply(gate, subtract(1, s)), 1)));
    return [cast(concat([dgate, multiply(g, multiply(gate, s))], last), gateUp.dtype)];
  },
  cost: ([dy, gateUp]) => ({ flops: 16 * dy.size, bytesRead: dy.bytes + gateUp.bytes, bytesWritten: gateUp.bytes }),
  kernel: ([dy, gateUp, extent], [dgateUp]) => ({
    kernel: 'swiglu-backward',
    params: kernelParams(dy),
    buffers: [dy, gateUp, extent, dgateUp],
  }),
  inPlace: [[0, 1]],
});

/**
 * Gated activation silu(gate) · up.
 *
 * @param gateUp - [..., 2I], float: gate in the first half of the last dim, up in the second
 * @returns [..., I]; has the extent of gateUp, rows beyond it are not written
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function swiglu(gateUp: Value): Value {
  return swigluOp.apply([gateUp, gateUp.extent], {})[0];
}
