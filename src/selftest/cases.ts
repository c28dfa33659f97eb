// What a device is asked to compute before it is trusted: a few rows for every kernel, of sizes that reach its paths (rows that
// vectors do not divide, more than one tile, heads of several sizes) and are done in milliseconds. Backward kernels come in as
// gradients.
import { gradients } from '../autodiff/gradients.js';
import type { Graph, Value } from '../graph/graph.js';
import { adamw } from '../ops/adamw.js';
import { attention } from '../ops/attention.js';
import { cacheWrite } from '../ops/cache-write.js';
import { add, cast, exp, multiply, silu, square } from '../ops/elementwise.js';
import { ema } from '../ops/ema.js';
import { embedding } from '../ops/embedding.js';
import { groupedMatmul } from '../ops/grouped-matmul.js';
import { latentHeads } from '../ops/latent-heads.js';
import { addLayerNorm, layerNorm } from '../ops/layer-norm.js';
import { linearCrossEntropy } from '../ops/linear-cross-entropy.js';
import { lion, lionRoot } from '../ops/lion.js';
import { matmul } from '../ops/matmul.js';
import { muonMomentum, muonUpdate } from '../ops/muon.js';
import { orthogonalize } from '../ops/orthogonalize.js';
import { packedMatmul, packWeights } from '../ops/packed-matmul.js';
import { expertOrder, permute, unpermute } from '../ops/permute.js';
import { dequantizeBlocks, quantizeBlocks, sumBlocks } from '../ops/quantize-blocks.js';
import { quantizeTiles } from '../ops/quantize-tiles.js';
import { dropout, randomFill } from '../ops/random.js';
import { max, mean, sum } from '../ops/reduce.js';
import { addRmsNorm, rmsNorm } from '../ops/rms-norm.js';
import { rotary } from '../ops/rotary.js';
import { expertCounts, type RouterOptions, router } from '../ops/router.js';
import { sgd, sgdMomentum } from '../ops/sgd.js';
import { concat, reshape, slice } from '../ops/shape.js';
import { softmax } from '../ops/softmax.js';
import { squaredNorm } from '../ops/squared-norm.js';
import { statistics } from '../ops/statistics.js';
import { swiglu } from '../ops/swiglu.js';
import { topK, topKSum } from '../ops/top-k.js';

type FloatDType = 'fp32' | 'bf16' | 'fp16';

/** Numbers that a case is given: normal ones in the case's dtype or in fp32, or whole ones from 0 to below a limit, or these. */
export type InputSpec =
  | { shape: readonly number[]; kind?: 'float' | 'fp32'; isPositive?: boolean }
  | { shape: readonly number[]; below: number }
  | { shape: readonly number[]; values: readonly number[]; dtype: 'fp32' | 'int32' };

type Values = Readonly<Record<string, Value>>;

/** One computation that must give on a device what it gives on the processor. */
export interface SelfTestCase {
  name: string;
  dtypes: readonly FloatDType[];
  inputs: Readonly<Record<string, InputSpec>>;
  build(values: Values, graph: Graph): Value | readonly Value[];
  /** Inputs by which the sum of the squared results is differentiated, too. */
  wrt: readonly string[];
}

const all = ['fp32', 'bf16', 'fp16'] as const;
const fp32 = ['fp32'] as const;

const row = (
  name: string,
  inputs: SelfTestCase['inputs'],
  build: SelfTestCase['build'],
  { wrt = [], dtypes = all }: { wrt?: readonly string[]; dtypes?: readonly FloatDType[] } = {},
): SelfTestCase => ({ name, dtypes, inputs, build, wrt });

const f = (...shape: number[]): InputSpec => ({ shape });
const single = (...shape: number[]): InputSpec => ({ shape, kind: 'fp32' });
const scalar = (value: number): InputSpec => ({ shape: [1], values: [value], dtype: 'fp32' });
const ids = (below: number, ...shape: number[]): InputSpec => ({ shape, below });
const given = (...values: number[]): InputSpec => ({ shape: [values.length], values, dtype: 'int32' });
const v = (values: Values, name: string): Value => values[name] as Value;

const norms = { x: f(33, 200), residual: f(33, 200), weight: f(200), bias: f(200) };
const numbers = { lr: scalar(0.01), gradScale: scalar(0.5), correction1: scalar(0.2), correction2: scalar(0.05) };
const lists = {
  param0: single(70, 9),
  grad0: f(70, 9),
  m0: single(70, 9),
  s0: { shape: [70, 9], kind: 'fp32', isPositive: true },
} as const;
const state = (values: Values) => ({ param: v(values, 'param0'), grad: v(values, 'grad0'), weightDecay: 0.1 });
const flat = (results: readonly object[]): Value[] =>
  results.flatMap((result) => Object.values(result)).filter((value) => value !== null && value !== undefined);

function heads([batch, queries, keys, count, kv, d, e]: readonly number[], causal: boolean): SelfTestCase {
  const [B, T, S, H, G, D, E] = [batch, queries, keys, count, kv, d, e] as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const inputs = { q: f(B, T, H, D), k: f(B, S, G, D), v: f(B, S, G, E) };
  const build = (values: Values) =>
    attention(v(values, 'q'), v(values, 'k'), v(values, 'v'), { causal, scale: 1 / Math.sqrt(D) });
  return row(`attention ${[B, T, S, H, G, D, E].join('×')}${causal ? ' causal' : ''}`, inputs, build, {
    wrt: ['q', 'k', 'v'],
  });
}

/** Cases, the plain ones first: what later ones are made of is known by then. */
export const selfTestCases: readonly SelfTestCase[] = [
  row('elementwise', { x: f(37, 61), y: f(37, 61), w: f(61) }, (a) =>
    add(multiply(silu(v(a, 'x')), v(a, 'w')), exp(v(a, 'y'))),
  ),
  row('reduce', { x: f(19, 70, 5) }, (a) => [sum(v(a, 'x'), [1]), mean(v(a, 'x'), [0, 2]), max(v(a, 'x'), [2])]),
  row('shape', { x: f(6, 40), y: f(6, 24) }, (a) => slice(concat([v(a, 'x'), v(a, 'y')], 1), 1, 7, 50), {
    wrt: ['x', 'y'],
  }),
  row('matmul', { a: f(70, 130), b: f(130, 90) }, (a) => matmul(v(a, 'a'), v(a, 'b')), { wrt: ['a', 'b'] }),
  row(
    'matmul of batches',
    { a: f(3, 33, 40), b: f(3, 17, 40) },
    (a) => matmul(v(a, 'a'), v(a, 'b'), { transposeB: true }),
    {
      wrt: ['a', 'b'],
    },
  ),
  row('large matmul', { a: f(256, 320), b: f(320, 256) }, (a) => matmul(v(a, 'a'), v(a, 'b')), {
    dtypes: ['bf16', 'fp16'],
  }),
  row('packed matmul', { a: f(5, 96), w: f(64, 96) }, (a) =>
    packedMatmul(v(a, 'a'), packWeights(v(a, 'w'), { transposeB: true }), { n: 64 }),
  ),
  row('RMSNorm', norms, (a) => rmsNorm(v(a, 'x'), v(a, 'weight'), 1e-6), { wrt: ['x', 'weight'] }),
  row('RMSNorm of a sum', norms, (a) => flat([addRmsNorm(v(a, 'x'), v(a, 'residual'), v(a, 'weight'), 1e-6)]), {
    wrt: ['x', 'residual', 'weight'],
  }),
  row('LayerNorm', norms, (a) => layerNorm(v(a, 'x'), v(a, 'weight'), v(a, 'bias'), 1e-5), {
    wrt: ['x', 'weight', 'bias'],
  }),
  row(
    'LayerNorm of a sum',
    norms,
    (a) => flat([addLayerNorm(v(a, 'x'), v(a, 'residual'), v(a, 'weight'), v(a, 'bias'), 1e-5)]),
    { wrt: ['x', 'residual', 'weight', 'bias'] },
  ),
  row('softmax', { x: f(21, 77) }, (a) => softmax(v(a, 'x')), { wrt: ['x'] }),
  row('SwiGLU', { x: f(17, 2 * 72) }, (a) => swiglu(v(a, 'x')), { wrt: ['x'] }),
  row('embedding', { table: f(50, 40), ids: ids(50, 3, 30) }, (a) => embedding(v(a, 'table'), v(a, 'ids')), {
    wrt: ['table'],
  }),
  ...(['half', 'interleaved'] as const).flatMap((layout) => [
    row(
      `rotary ${layout}`,
      { x: f(2, 9, 3, 32), cos: single(16, 16), sin: single(16, 16), positions: ids(16, 2, 9) },
      (a) => rotary(v(a, 'x'), v(a, 'cos'), v(a, 'sin'), v(a, 'positions'), { layout }),
      { wrt: ['x'] },
    ),
    row(
      `latent heads ${layout}`,
      {
        ...{ q: f(2, 9, 3, 48), keyValue: f(2, 9, 3, 56), sharedKey: f(2, 9, 1, 16) },
        ...{ cos: single(16, 8), sin: single(16, 8), positions: ids(16, 2, 9) },
      },
      (a) => {
        const [q, keyValue, sharedKey] = [v(a, 'q'), v(a, 'keyValue'), v(a, 'sharedKey')];
        const [cos, sin, positions] = [v(a, 'cos'), v(a, 'sin'), v(a, 'positions')];
        return flat([latentHeads({ q, keyValue, sharedKey, cos, sin, positions, layout })]);
      },
      { wrt: ['q', 'keyValue', 'sharedKey'] },
    ),
  ]),
  heads([2, 70, 70, 4, 4, 64, 64], true),
  heads([1, 130, 130, 4, 2, 128, 128], true),
  heads([1, 40, 75, 2, 2, 192, 128], false),
  heads([1, 20, 20, 2, 1, 24, 40], true),
  row(
    'cache and decoding',
    { cache: f(2, 40, 2, 64), x: f(2, 3, 2, 64), q: f(2, 3, 4, 64), start: given(20, 37) },
    (a) => {
      const keys = cacheWrite(v(a, 'cache'), v(a, 'x'), v(a, 'start'));
      return [keys, attention(v(a, 'q'), keys, keys, { causal: true, scale: 0.125, start: v(a, 'start') })];
    },
  ),
  row(
    'router',
    { logits: single(40, 16), bias: single(16) },
    (a) => {
      const options: RouterOptions = {
        topK: 4,
        groups: 4,
        topGroups: 2,
        scoring: 'sigmoid',
        normalize: true,
        groupScore: 'top2sum',
        scalingFactor: 2.5,
      };
      const { weights, scores, experts } = router(v(a, 'logits'), v(a, 'bias'), null, options);
      return [weights, scores, cast(expertCounts(experts, { groups: 1, experts: 16 }), 'fp32')];
    },
    { dtypes: fp32, wrt: ['logits'] },
  ),
  row(
    'experts',
    { x: f(30, 40), experts: ids(5, 30, 3), weights: single(30, 3), w: f(5, 40, 48) },
    (a) => {
      const order = expertOrder(v(a, 'experts'), { experts: 5 });
      const rows = groupedMatmul(permute(v(a, 'x'), order), v(a, 'w'), order.offsets);
      return unpermute(rows, order, v(a, 'weights'));
    },
    { wrt: ['x', 'weights', 'w'] },
  ),
  row(
    'linear cross-entropy',
    { hidden: f(45, 64), weight: f(150, 64), labels: ids(150, 45), scale: scalar(1 / 45) },
    (a) =>
      flat([
        linearCrossEntropy(v(a, 'hidden'), v(a, 'weight'), v(a, 'labels'), v(a, 'scale'), {
          zLoss: 1e-4,
          chunkRows: 32,
        }),
      ]),
    { wrt: ['hidden', 'weight'] },
  ),
  row('fp8 tiles', { x: f(150, 140) }, (a) => quantizeTiles(v(a, 'x'), { tile: [1, 128], scale: 'float' })),
  row('dropout', { x: f(37, 29), key: given(5, 9) }, (a) => [
    dropout(v(a, 'x'), v(a, 'key'), { probability: 0.3, stream: 7 }),
    randomFill(v(a, 'key'), [333], 'fp32', { distribution: 'truncated-normal', stream: 3, mean: 0, std: 0.02 }),
  ]),
  row('AdamW', { ...lists, ...numbers }, (a) => {
    const inputs = {
      lr: v(a, 'lr'),
      gradScale: v(a, 'gradScale'),
      correction1: v(a, 'correction1'),
      correction2: v(a, 'correction2'),
    };
    const tensor = { ...state(a), m: v(a, 'm0'), v: v(a, 's0'), l4Decay: 0, copy: 'bf16' as const };
    return flat(adamw([tensor], inputs, { beta1: 0.9, beta2: 0.95, eps: 1e-8 }));
  }),
  row('Lion', { ...lists, ...numbers }, (a) => {
    const inputs = { lr: v(a, 'lr'), gradScale: v(a, 'gradScale'), betaShare: null };
    const tensor = { ...state(a), m: v(a, 'm0') };
    return [
      ...flat(lion([tensor], inputs, { beta1: 0.9, beta2: 0.99 })),
      ...flat(lionRoot([{ ...tensor, s: v(a, 's0') }], inputs, { beta1: 0.9, beta2: 0.99, eps: 1e-8 })),
    ];
  }),
  row('SGD', { ...lists, ...numbers }, (a) => {
    const inputs = { lr: v(a, 'lr'), gradScale: v(a, 'gradScale') };
    const moving = sgdMomentum([{ ...state(a), m: v(a, 'm0') }], inputs, { momentum: 0.9, nesterov: true });
    return [...flat(sgd([state(a)], inputs)), ...flat(moving)];
  }),
  row('Muon', { ...lists, ...numbers }, (a) => {
    const pairs = [{ grad: v(a, 'grad0'), m: v(a, 'm0') }];
    const { direction, m } = muonMomentum(pairs, v(a, 'gradScale'), { momentum: 0.95, nesterov: true, dtype: 'fp32' });
    return [...m, ...flat(muonUpdate([{ param: v(a, 'param0'), weightDecay: 0.1 }], v(a, 'lr'), direction, 0.2))];
  }),
  row('means of weights', { x: single(501), mean: single(501), rest: scalar(0.1) }, (a) =>
    ema([{ x: v(a, 'x'), mean: v(a, 'mean') }], v(a, 'rest')),
  ),
  row('norms and statistics', { x: f(41, 33), y: f(7) }, (a) => [
    squaredNorm([v(a, 'x'), v(a, 'y')]),
    statistics(v(a, 'x')),
  ]),
  row('orthogonal columns', { x: single(60, 4) }, (a) => orthogonalize(v(a, 'x')), { dtypes: fp32 }),
  row(
    'int8 blocks',
    { grad: single(1300), residual: single(1300), scale: scalar(0.5) },
    (a) => {
      const residual = { value: v(a, 'residual'), scale: v(a, 'scale') };
      const sent = quantizeBlocks(v(a, 'grad'), residual, 1);
      const made = sumBlocks(sent, { sent, grad: v(a, 'grad'), residual }, { ranks: 1, rank: 0, count: 1300 });
      return [dequantizeBlocks(reshape(made.message, [1, -1]), [1300], 1), made.residual as Value];
    },
    { dtypes: fp32 },
  ),
  row(
    'largest numbers',
    { grad: single(1300), residual: single(1300), scale: scalar(0.5) },
    (a) => {
      const made = topK(v(a, 'grad'), { value: v(a, 'residual'), scale: v(a, 'scale') }, 40);
      return [topKSum(reshape(made.message, [1, -1]), [1300], 40), made.residual as Value];
    },
    { dtypes: fp32 },
  ),
];

/** The results of a case, and the gradients of the sum of their squares. */
export function resultsOf(one: SelfTestCase, values: Values, graph: Graph): Value[] {
  const built = one.build(values, graph);
  const results = Array.isArray(built) ? (built as Value[]) : [built as Value];
  if (one.wrt.length === 0) return results;
  const squares = results.flatMap((result) => {
    if (result.dtype === 'int32') return [];
    return [
      sum(
        square(cast(result, 'fp32')),
        result.shape.map((_, axis) => axis),
      ),
    ];
  });
  const loss = squares.reduce((total, one) => add(total, one));
  return [
    ...results,
    ...gradients(
      loss,
      one.wrt.map((name) => v(values, name)),
    ),
  ];
}
