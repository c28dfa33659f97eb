import { attention } from '../../src/ops/attention.js';
import type { CaseInput, OpCase } from '../support/op-case.js';

/** Batch, queries, keys where they differ, heads, kv heads, sizes of keys and values. */
export interface Sizes {
  B: number;
  T: number;
  S?: number;
  H: number;
  G: number;
  D: number;
  E: number;
}

interface Options {
  causal?: boolean;
  docIds?: number[];
  start?: number[];
  /** No v: the value is the key's beginning. */
  valueInKey?: boolean;
  /** Too big for gradients by differences. */
  forwardOnly?: boolean;
  bench?: boolean;
}

/** Softmax over the keys a query sees, key by key, straight from the formula. */
function attentionCase(about: string, { B, T, S = T, H, G, D, E }: Sizes, options: Options = {}): OpCase {
  const { causal = false, docIds, start, valueInKey = false, forwardOnly = false, bench = false } = options;
  const scale = 1 / Math.sqrt(D);
  const int32 = (shape: number[], numbers: number[]): CaseInput => ({
    shape,
    dtype: 'int32',
    values: (_, i) => numbers[i] as number,
  });
  const sees = (b: number, t: number, s: number) => {
    if (start) return s <= start[b]! + t && !(docIds && docIds[b * T + t]! < 0);
    if (causal && s > t) return false;
    return !docIds || (docIds[b * T + t]! >= 0 && docIds[b * T + t] === docIds[b * T + s]);
  };
  const lists: number[][] = [];
  const visible = (token: number) => {
    lists[token] ??= Array.from({ length: S }, (_, s) => s).filter((s) => sees(Math.floor(token / T), token % T, s));
    return lists[token];
  };
  return {
    name: `${about} B${B} T${T} S${S} H${H} G${G} D${D} E${E}`,
    inputs: {
      q: { shape: [B, T, H, D] },
      k: { shape: [B, S, G, D] },
      ...(!valueInKey && { v: { shape: [B, S, G, E] } }),
      ...(docIds && { docIds: int32([B, T], docIds) }),
      ...(start && { start: int32([B], start) }),
    },
    build: ({ q, k, v, docIds, start }) =>
      attention(q!, k!, v ?? null, { causal, scale, docIds: docIds ?? null, start: start ?? null, valueDim: E }),
    reference({ q, k, v }, r) {
      const o = new Float64Array(B * T * H * E);
      for (let row = 0; row < B * T * H; row++) {
        const [token, head] = [Math.floor(row / H), row % H];
        const kvRow = (s: number) => (Math.floor(token / T) * S + s) * G + Math.floor((head * G) / H);
        const seen = visible(token);
        const scores = seen.map((s) => {
          let dot = 0;
          for (let d = 0; d < D; d++) dot = r(dot + r(q![row * D + d]! * k![kvRow(s) * D + d]!));
          return r(dot * scale);
        });
        const top = Math.max(...scores);
        const weights = scores.map((score) => r(Math.exp(r(score - top))));
        const total = weights.reduce((a, b) => r(a + b), 0);
        for (const [i, s] of seen.entries()) {
          const p = r(weights[i]! / total);
          for (let e = 0; e < E; e++)
            o[row * E + e] = r(o[row * E + e]! + r(p * (v ? v[kvRow(s) * E + e]! : k![kvRow(s) * D + e]!)));
        }
      }
      return [o];
    },
    ...(forwardOnly && { differentiable: [] }),
    ...(bench && { bench }),
  };
}

const odd = { B: 1, T: 13, H: 2, G: 2, D: 10, E: 14 };

/** Documents of 3, 1, 60 and 2 tokens and four of padding; then one of 40, 1, 1 and 28. */
const documents = [
  [3, 0],
  [1, 1],
  [60, 2],
  [2, 7],
  [4, -1],
  [40, 5],
  [1, 6],
  [1, 7],
  [28, 8],
].flatMap(([length, id]) => new Array<number>(length!).fill(id!));

export const cases: OpCase[] = [
  attentionCase('all keys', odd),
  attentionCase('causal', odd, { causal: true }),
  attentionCase('one token', { B: 2, T: 1, H: 3, G: 3, D: 1, E: 1 }, { causal: true }),
  attentionCase('cross', { B: 2, T: 3, S: 7, H: 2, G: 1, D: 8, E: 4 }),
  attentionCase('no queries', { B: 2, T: 0, S: 4, H: 2, G: 1, D: 3, E: 5 }),
  attentionCase('grouped queries', { B: 2, T: 9, H: 4, G: 2, D: 6, E: 8 }, { causal: true }),
  attentionCase('one kv head, several tiles of rows', { B: 1, T: 35, H: 4, G: 1, D: 4, E: 3 }, { causal: true }),
  attentionCase('several tiles', { B: 1, T: 150, H: 1, G: 1, D: 3, E: 2 }, { causal: true }),
  attentionCase('several tiles, all keys', { B: 1, T: 70, H: 1, G: 1, D: 4, E: 5 }),
  attentionCase('documents', { B: 2, T: 70, H: 1, G: 1, D: 3, E: 4 }, { causal: true, docIds: documents }),
  attentionCase('documents both ways', { B: 2, T: 70, H: 2, G: 1, D: 2, E: 2 }, { docIds: documents }),
  attentionCase('padding only', { B: 1, T: 3, H: 1, G: 1, D: 2, E: 2 }, { causal: true, docIds: [-1, -1, -1] }),
  attentionCase('cache', { B: 2, T: 5, S: 20, H: 2, G: 1, D: 4, E: 6 }, { causal: true, start: [0, 15] }),
  attentionCase('cache, one token', { B: 3, T: 1, S: 90, H: 4, G: 1, D: 2, E: 2 }, { start: [0, 63, 89] }),
  attentionCase(
    'cache with padding',
    { B: 3, T: 4, S: 70, H: 2, G: 1, D: 4, E: 3 },
    { start: [66, 69, 70], docIds: [0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1] },
  ),
  attentionCase('value in the key', { B: 2, T: 3, S: 7, H: 4, G: 2, D: 8, E: 5 }, { valueInKey: true }),
  attentionCase('value the whole key', { B: 1, T: 9, H: 2, G: 1, D: 6, E: 6 }, { causal: true, valueInKey: true }),
  attentionCase(
    'cache of latents',
    { B: 2, T: 2, S: 80, H: 20, G: 1, D: 18, E: 16 },
    { start: [3, 78], valueInKey: true },
  ),
  attentionCase(
    'caches so long that threads share them',
    { B: 2, T: 2, S: 2100, H: 3, G: 1, D: 70, E: 60 },
    { start: [2098, 200], docIds: [0, 0, 0, -1], forwardOnly: true },
  ),
  attentionCase(
    'a long cache of latents',
    { B: 1, T: 1, S: 4200, H: 20, G: 1, D: 40, E: 30 },
    { start: [4100], valueInKey: true, forwardOnly: true },
  ),
  attentionCase(
    'a cache of wide latents',
    { B: 2, T: 1, S: 90, H: 18, G: 1, D: 288, E: 264 },
    { start: [80, 7], valueInKey: true, forwardOnly: true },
  ),
  attentionCase('odd head sizes', { B: 1, T: 70, H: 2, G: 1, D: 37, E: 51 }, { causal: true, forwardOnly: true }),
  attentionCase('wide heads', { B: 1, T: 130, H: 1, G: 1, D: 192, E: 128 }, { causal: true, forwardOnly: true }),
  // The head sizes for which there are tiles of their own, and beyond.
  attentionCase('heads of 64', { B: 1, T: 11, H: 3, G: 1, D: 48, E: 64 }, { causal: true }),
  attentionCase('heads of 128', { B: 1, T: 7, S: 19, H: 1, G: 1, D: 128, E: 100 }),
  attentionCase('heads of 192 and 128', { B: 1, T: 10, H: 2, G: 2, D: 192, E: 128 }, { causal: true }),
  attentionCase('heads of 256', { B: 1, T: 8, H: 1, G: 1, D: 256, E: 256 }, { causal: true }),
  attentionCase('heads beyond 256', { B: 1, T: 6, H: 2, G: 1, D: 264, E: 300 }, { causal: true }),
  attentionCase(
    'three heads a kv head, other keys than queries',
    { B: 1, T: 30, S: 77, H: 3, G: 1, D: 64, E: 64 },
    { forwardOnly: true },
  ),
  attentionCase('many keys', { B: 1, T: 2, S: 300, H: 2, G: 2, D: 3, E: 4 }),
  attentionCase('bench', { B: 8, T: 256, H: 8, G: 8, D: 48, E: 32 }, { causal: true, bench: true }),
  attentionCase('bench', { B: 1, T: 1024, H: 8, G: 8, D: 64, E: 64 }, { causal: true, bench: true }),
  attentionCase('bench', { B: 1, T: 2048, H: 8, G: 8, D: 192, E: 128 }, { causal: true, bench: true }),
  attentionCase(
    'bench, one token over latents',
    { B: 1, T: 1, S: 2048, H: 8, G: 1, D: 80, E: 64 },
    { start: [2047], valueInKey: true, bench: true },
  ),
];
