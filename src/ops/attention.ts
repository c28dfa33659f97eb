// Attention that never holds the T × S scores. Dao 2023 (FlashAttention-2), arXiv:2307.08691.
// B batch, T queries, S keys, H heads, G kv heads (each serves H/G heads), D size of q and k, E size of v.
import { HadalError } from '../core/errors.js';
import type { Node, Value } from '../graph/graph.js';
import type { OpDefinition, TypeSpec } from '../graph/op.js';
import { defineOp, expectDType, expectRank, expectShape } from './define-op.js';
import {
  add,
  cast,
  divide,
  equal,
  exp,
  greaterEqual,
  lessEqual,
  log,
  maximum,
  multiply,
  stopGradient,
  subtract,
  where,
} from './elementwise.js';
import { matmul } from './matmul.js';
import { max, sum } from './reduce.js';
import { concat, reshape, slice, transpose } from './shape.js';
import { fill, iota } from './sources.js';

type AttentionAttrs = { causal: boolean; scale: number };
/** `valueDim`: E. Without v, the value is the first E numbers of the key. */
type ForwardAttrs = AttentionAttrs & { valueDim: number };
type AttentionInputs = [q_BTHD: Value, k_BSGD: Value, v_BSGE: Value | null, ...Sight];
type BackwardInputs = [do_BTHE: Value, ...qkv: [Value, Value, Value], o_BTHE: Value, logsumexp_BHT: Value, ...Sight];
type Sight = [docIds_BT: Value | null, start_B: Value | null];

const sizes = (q: Value, k: Value, valueDim: number) => {
  const [batch, queries, heads, keyDim] = q.shape as [number, number, number, number];
  const [, keys, kvHeads] = k.shape as [number, number, number];
  return { batch, queries, keys, heads, kvHeads, keyDim, valueDim };
};
const sizesOf = (q: Value, k: Value, v: Value) => sizes(q, k, v.shape[3] as number);
const valuesOf = (k: Value, v: Value | null, valueDim: number) => v ?? slice(k, 3, 0, valueDim);

function inferAttention([q, k, v, docIds, start]: AttentionInputs, { causal, valueDim }: ForwardAttrs): TypeSpec[] {
  const refuse = (expected: string, got: string) => {
    throw new HadalError('HADAL_ERR_SHAPE', `[attention] expected ${expected}, got ${got}`);
  };
  expectDType('attention', 'q', q, 'float');
  expectDType('attention', 'k', k, q.dtype);
  expectRank('attention', 'q', q, 4);
  const [batch = 0, queries = 0, heads = 0, keyDim = 0] = q.shape;
  expectShape('attention', 'k', k, [batch, null, null, keyDim]);
  const [, keys = 0, kvHeads = 0] = k.shape;
  if (v) {
    expectDType('attention', 'v', v, q.dtype);
    expectShape('attention', 'v', v, [batch, keys, kvHeads, valueDim]);
  } else if (!(valueDim >= 1 && valueDim <= keyDim)) refuse(`a valueDim from 1 to ${keyDim} without v`, `${valueDim}`);
  if (kvHeads < 1 || heads % kvHeads !== 0) {
    refuse('the heads of q to be a multiple of the heads of k and v', `${heads} and ${kvHeads}`);
  }
  if (start) {
    expectDType('attention', 'start', start, 'int32');
    expectShape('attention', 'start', start, [batch]);
    if (keys < queries) refuse('a cache of at least as many keys as there are queries', `${keys} and ${queries}`);
  } else if ((docIds || causal) && keys !== queries) {
    refuse('as many keys as queries without start', `${keys} and ${queries}`);
  }
  if (docIds) {
    expectDType('attention', 'docIds', docIds, 'int32');
    expectShape('attention', 'docIds', docIds, [batch, queries]);
  }
  return [
    { shape: [batch, queries, heads, valueDim], dtype: q.dtype },
    { shape: [batch, heads, queries], dtype: 'fp32' },
  ];
}

const attentionOp = defineOp<ForwardAttrs, AttentionInputs, [o_BTHE: Value, logsumexp_BHT: Value]>({
  name: 'attention',
  narrow: [0, 1, 2],
  infer: inferAttention,
  vjpOutputs: [0],
  vjp({ inputs: [q, k, v, docIds, start], outputs: [o, logsumexp], gradients: [dOut], attrs: { valueDim, ...attrs } }) {
    if (!dOut) return [null, null, null, null, null];
    const values = valuesOf(k, v, valueDim);
    const backward = attentionBackwardOp.apply([dOut, q, k, values, o, logsumexp, docIds, start], attrs);
    const [dq, dk, dv] = backward;
    if (v) return [dq, dk, dv, null, null];
    const rest = fill(k.node.graph, [...k.shape.slice(0, 3), (k.shape[3] as number) - valueDim], 0, k.dtype);
    return [dq, add(dk, concat([dv, rest], 3)), null, null, null];
  },
  lower([q, k, v, docIds, start], { valueDim, ...attrs }) {
    const { batch, queries, heads } = sizes(q, k, valueDim);
    const { p, logsumexp } = probabilities(q, k, docIds, start, attrs);
    const values = byKvHead(valuesOf(k, v, valueDim));
    return [cast(fromGroups(matmul(p, values), heads), q.dtype), reshape(logsumexp, [batch, heads, queries])];
  },
  cost([q, k, v, , start], [o], { causal, valueDim }) {
    const { batch, queries, keys, heads, keyDim } = sizes(q, k, valueDim);
    return {
      flops: visibleScores(batch * heads * queries * keys, causal, start) * 2 * (keyDim + valueDim),
      bytesRead: q.bytes + k.bytes + (v?.bytes ?? 0),
      bytesWritten: o.bytes,
    };
  },
  kernel: ([q, k, v, docIds, start], outputs, { causal, scale, valueDim }) => ({
    kernel: 'attention',
    params: { ...sizes(q, k, valueDim), valueInKey: Number(!v), causal: Number(causal), scale, dtype: q.dtype },
    buffers: [q, k, v, docIds, start, ...outputs],
  }),
});

const attentionBackwardOp = defineOp<AttentionAttrs, BackwardInputs, [dq: Value, dk: Value, dv: Value]>({
  name: 'attention-backward',
  infer: ([, ...qkv]) => qkv.slice(0, 3).map((x) => ({ shape: (x as Value).shape, dtype: (x as Value).dtype })),
  // p is recomputed from q and k so that the lowered form depends on them through every path.
  lower([dOut, q, k, v, , , docIds, start], attrs) {
    const { heads, kvHeads } = sizesOf(q, k, v);
    const { p } = probabilities(q, k, docIds, start, attrs);
    const dOutRows = toGroups(dOut, kvHeads);
    const dp = matmul(dOutRows, byKvHead(v), { transposeB: true });
    const ds = multiply(multiply(p, subtract(dp, sum(multiply(p, dp), [3], true))), attrs.scale);
    const dk = matmul(ds, toGroups(q, kvHeads), { transposeA: true });
    const dv = matmul(p, dOutRows, { transposeA: true });
    return [
      cast(fromGroups(matmul(ds, byKvHead(k)), heads), q.dtype),
      cast(transpose(dk, [0, 2, 1, 3]), k.dtype),
      cast(transpose(dv, [0, 2, 1, 3]), v.dtype),
    ];
  },
  cost([dOut, q, k, v, o, , , start], _, { causal }) {
    const { batch, queries, keys, heads, keyDim, valueDim } = sizesOf(q, k, v);
    return {
      flops: visibleScores(batch * heads * queries * keys, causal, start) * 2 * (3 * keyDim + 2 * valueDim),
      bytesRead: dOut.bytes + q.bytes + k.bytes + v.bytes + o.bytes,
      bytesWritten: q.bytes + k.bytes + v.bytes,
    };
  },
  kernel: ([dOut, q, k, v, o, logsumexp, docIds, start], outputs, { causal, scale }) => ({
    kernel: 'attention-backward',
    params: { ...sizesOf(q, k, v), valueInKey: 0, causal: Number(causal), scale, dtype: q.dtype },
    buffers: [dOut, q, k, v, o, logsumexp, docIds, start, ...outputs],
  }),
});

/** Scores that are computed at most: documents and cache lengths are data, not known before the run. */
const visibleScores = (scores: number, causal: boolean, start: Value | null) =>
  causal && !start ? scores / 2 : scores;

/** k or v as fp32 [B, G, S, …]. */
const byKvHead = (x_BSGD: Value) => transpose(cast(x_BSGD, 'fp32'), [0, 2, 1, 3]);

/** Queries of each kv head one below the other: fp32 [B, G, H/G · T, …]. */
function toGroups(x_BTHD: Value, kvHeads: number): Value {
  const [batch, , , dim] = x_BTHD.shape as [number, number, number, number];
  const rows = x_BTHD.size / (batch * kvHeads * dim || 1);
  return reshape(transpose(cast(x_BTHD, 'fp32'), [0, 2, 1, 3]), [batch, kvHeads, rows, dim]);
}

/** The way back: [B, T, H, …]. */
function fromGroups(x: Value, heads: number): Value {
  const [batch, kvHeads, rows, dim] = x.shape as [number, number, number, number];
  return transpose(reshape(x, [batch, heads, (kvHeads * rows) / (heads || 1), dim]), [0, 2, 1, 3]);
}

/** 1 where a query sees a key, [B or 1, T, S]; null where all see all. */
function visibility(q: Value, k: Value, docIds: Value | null, start: Value | null, causal: boolean): Value | null {
  const { graph } = q.node;
  const [batch, queries] = q.shape as [number, number];
  const keyPositions = reshape(iota(graph, k.shape[1] as number), [1, 1, -1]);
  const queryPositions = reshape(iota(graph, queries), [1, queries, 1]);
  const used = docIds && greaterEqual(reshape(docIds, [batch, queries, 1]), 0);
  if (start) {
    const cached = lessEqual(keyPositions, add(reshape(start, [batch, 1, 1]), queryPositions));
    return used ? multiply(cached, used) : cached;
  }
  const past = causal ? lessEqual(keyPositions, queryPositions) : null;
  if (!docIds || !used) return past;
  const together = multiply(equal(reshape(docIds, [batch, queries, 1]), reshape(docIds, [batch, 1, queries])), used);
  return past ? multiply(together, past) : together;
}

/** Softmax of the scores, fp32 [B, G, H/G · T, S], and its logsumexp [B, G, H/G · T, 1]; both 0 for a query that sees nothing. */
function probabilities(
  q: Value,
  k: Value,
  docIds: Value | null,
  start: Value | null,
  { causal, scale }: AttentionAttrs,
) {
  const [batch, queries, heads] = q.shape as [number, number, number];
  const [, keys, kvHeads] = k.shape as [number, number, number];
  const rows = [batch, kvHeads, (heads / kvHeads) * queries, keys];
  const scores = multiply(matmul(toGroups(q, kvHeads), byKvHead(k), { transposeB: true }), scale);
  const seen = visibility(q, k, docIds, start, causal);
  if (!seen) {
    const top = stopGradient(max(scores, [3], true));
    const e = exp(subtract(scores, top));
    const total = sum(e, [3], true);
    return { p: divide(e, total), logsumexp: add(log(total), top) };
  }
  const mask = reshape(seen, [seen.shape[0] as number, 1, 1, queries, keys]);
  const byQuery = (x: Value) => reshape(x, [batch, kvHeads, heads / kvHeads, queries, x.shape[3] as number]);
  const masked = reshape(where(mask, byQuery(scores), -1e30), rows);
  const top = stopGradient(max(masked, [3], true));
  const e = reshape(multiply(byQuery(exp(subtract(masked, top))), mask), rows);
  const total = sum(e, [3], true);
  const safe = maximum(total, 1e-30); // at least 1 for a query that sees a key
  return { p: divide(e, safe), logsumexp: where(total, add(log(safe), top), 0) };
}

/** What a query sees beside {@link attention}'s `causal`. */
export interface AttentionOptions {
  /** Keys after the query's own position are not seen. Needs as many keys as queries; implied by `start`. */
  causal: boolean;
  /** Factor of q·k before the softmax; usually 1/√D. */
  scale: number;
  /**
   * int32 [B, T], documents packed in one row as runs of equal ids: a query sees only keys of its own. Negative ids are
   * padding: output and gradients are 0. With `start`, other ids mean nothing, and padding stands behind them.
   */
  docIds?: Value | null;
  /** int32 [B], keys already in a cache: query i sees keys 0 … start + i. Keys from start + T on are never read. */
  start?: Value | null;
  /** E, where there is no v. */
  valueDim?: number;
}

/**
 * softmax(scale · q·kᵀ) · v, in fp32 inside; where the machine multiplies bf16, bf16 stays so and weights are rounded to it.
 * A query that sees nothing gets 0. The run fails where start + T, less padding, exceeds S.
 *
 * @param q - [B, T, H, D], float
 * @param k - [B, S, G, D], dtype of q; H is a multiple of G: head h reads kv head ⌊h · G/H⌋
 * @param v - [B, S, G, E], dtype of q; null: the first `valueDim` numbers of each key, as in a cache of latents
 * @returns [B, T, H, E], dtype of q
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function attention(q: Value, k: Value, v: Value | null, options: AttentionOptions): Value {
  const { causal, scale, docIds = null, start = null, valueDim = v?.shape[3] ?? 0 } = options;
  return attentionOp.apply([q, k, v, docIds, start], { causal, scale, valueDim })[0];
}

/** Queries, keys and values of a node, where it is an {@link attention}; else null. */
export function attentionOf(node: Node): { q: Value; k: Value; v: Value | null } | null {
  if (node.op !== (attentionOp as unknown as OpDefinition)) return null;
  const [q, k, v] = node.inputs as AttentionInputs;
  return { q, k, v };
}
