import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { sizeOf } from '../../src/core/shape.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { modelFromConfig } from '../../src/models/families.js';
import type { CacheInputs, ModelInputs } from '../../src/nn/context.js';
import { type LatentAttentionConfig, latentAttention } from '../../src/nn/latent-attention.js';
import { ParameterScope } from '../../src/nn/parameters.js';
import { rotaryTables } from '../../src/nn/rotary-tables.js';
import { attention } from '../../src/ops/attention.js';
import { multiply } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { type RotaryOptions, rotary } from '../../src/ops/rotary.js';
import { broadcastTo, concat, slice } from '../../src/ops/shape.js';
import { fuseLatentHeads } from '../../src/passes/fuse-latent-heads.js';
import { narrow } from '../../src/passes/narrow.js';
import { prune } from '../../src/passes/prune.js';
import { compile } from '../../src/runtime/compile.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { deepseekV2Lite, deepseekV3 } from '../models/published-configs.js';
import { compare } from '../support/compare.js';
import { testDevice } from '../support/op-case.js';
import { uniformPrecision } from '../support/precision.js';
import { Rng } from '../support/rng.js';

/** How often each of the ops that the rule is about stands in a graph. */
function counts(graph: Graph): Record<string, number> {
  const of = (name: string) => graph.nodes.filter(({ op }) => op.name === name).length;
  return { fused: of('latent-heads'), attention: of('attention'), rotary: of('rotary') };
}

function fuse(graph: Graph): Graph {
  const fused = prune(fuseLatentHeads(graph));
  verify(fused);
  return fused;
}

const [batch, tokens, dim] = [2, 9, 16];
const config = {
  heads: 3,
  qLoraRank: 8,
  kvLoraRank: 12,
  qkNopeHeadDim: 10,
  qkRopeHeadDim: 6,
  vHeadDim: 7,
  rotaryLayout: 'interleaved',
  softmaxScale: 0.25,
  initializer: { kind: 'normal', std: 0.1 },
} as const satisfies LatentAttentionConfig;

/** The forward graph of one layer and of the loss Σ y · weight. */
function layerLoss(layer: LatentAttentionConfig): Graph {
  const graph = new Graph();
  const { cos, sin } = rotaryTables(tokens, layer.qkRopeHeadDim, 100);
  const table = (data: Float32Array) => graph.constant(data, [tokens, layer.qkRopeHeadDim / 2]);
  const ids = (name: string) => graph.input(name, [batch, tokens], 'int32');
  const x = graph.slot('x', [batch, tokens, dim], 'fp32');
  const inputs: ModelInputs = {
    tokens: ids('tokens'),
    positions: ids('positions'),
    docIds: ids('docIds'),
    mtpTokens: [],
    cache: null,
    dropoutKey: null,
  };
  const y = latentAttention(
    new ParameterScope(graph, new Map()),
    x,
    layer,
    { cos: table(cos), sin: table(sin) },
    inputs,
  );
  graph.output('loss', sum(multiply(y, graph.slot('weight', x.shape, 'fp32')), [0, 1, 2]));
  return graph;
}

/** The loss and its gradients by every slot, by name. */
async function train(forward: Graph): Promise<Map<string, Float32Array>> {
  const loss = forward.outputs.get('loss') as Value;
  const weights = [...forward.slots];
  const found = gradients(
    loss,
    weights.map(([, value]) => value),
  );
  for (const [i, [name]] of weights.entries()) forward.output(`gradient of ${name}`, found[i] as Value);
  const device = testDevice();
  const program = device.load(compile(forward, device.target));
  const rng = new Rng('layer');
  const slots: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of program.slots) {
    const tensor = device.allocate(shape, dtype);
    await tensor.write(Float32Array.from({ length: sizeOf(shape) }, () => 0.4 * rng.normal()));
    slots[name] = tensor;
  }
  const each = (value: (token: number) => number) =>
    Int32Array.from({ length: batch * tokens }, (_, i) => value(i % tokens));
  const inputs = { tokens: each(() => 0), positions: each((t) => t), docIds: each((t) => t >> 2) };
  await device.run([{ program, slots, inputs }]);
  const results = new Map<string, Float32Array>();
  for (const { name } of program.outputs) results.set(name, await (slots[name] as Tensor).toFloat32());
  for (const tensor of Object.values(slots)) tensor.dispose();
  return results;
}

describe.each([
  ['V3', 8],
  ['V2-Lite', null],
] as const)('a layer of %s', (_, qLoraRank) => {
  it.each([
    ['interleaved', 'fp32'],
    ['interleaved', 'bf16'],
    ['half', 'fp32'],
    ['half', 'bf16'],
  ] as const)('has the loss and gradients of the plain graph, %s %s', async (rotaryLayout, dtype) => {
    const typed = (graph: Graph) => (dtype === 'bf16' ? narrow(graph, uniformPrecision(dtype)) : graph);
    const forward = () => layerLoss({ ...config, qLoraRank, rotaryLayout });
    expect(counts(forward())).toEqual({ fused: 0, attention: 1, rotary: 2 });
    expect(counts(fuse(forward()))).toEqual({ fused: 1, attention: 1, rotary: 0 });
    const [expected, found] = [await train(typed(forward())), await train(typed(fuse(forward())))];
    expect(found.size).toBe(qLoraRank === null ? 8 : 10);
    for (const [name, values] of found) {
      const plain = expected.get(name) as Float32Array;
      const size = Math.max(...plain.map(Math.abs));
      expect(size, name).toBeGreaterThan(0.01);
      compare(name, values, plain, { allowed: (dtype === 'bf16' ? 0.03 : 1e-5) * size });
    }
  });
});

describe('a model', () => {
  const traced = (published: Record<string, unknown>, cache: Partial<CacheInputs> | null) => {
    const graph = new Graph();
    const ids = (name: string) => graph.input(name, [2, 4], 'int32');
    const rows = (name: string) => graph.input(name, [2], 'int32');
    const { hidden } = modelFromConfig(published).forward(new ParameterScope(graph, new Map()), {
      tokens: ids('tokens'),
      positions: ids('positions'),
      docIds: ids('docIds'),
      mtpTokens: [],
      cache: cache && {
        start: rows('start'),
        counts: rows('counts'),
        capacity: 16,
        form: 'latent',
        isEmpty: false,
        ...cache,
      },
      dropoutKey: null,
    });
    graph.output('hidden', hidden);
    return graph;
  };

  it.each([
    ['V3', deepseekV3, 61],
    ['V2-Lite', deepseekV2Lite, 27],
  ] as const)('of %s is fused in every layer', (_, published, layers) => {
    expect(counts(fuse(traced(published, null)))).toEqual({ fused: layers, attention: layers, rotary: 0 });
  });

  it.each([
    { form: 'latent', isEmpty: true },
    { form: 'latent', isEmpty: false },
    { form: 'expanded', isEmpty: true },
    { form: 'expanded', isEmpty: false },
  ] as const)('with caches stays as it is: %o', (cache) => {
    expect(counts(fuse(traced(deepseekV2Lite, cache)))).toEqual({ fused: 0, attention: 27, rotary: 54 });
  });
});

interface Changes {
  query: Partial<RotaryOptions>;
  shared: Partial<RotaryOptions>;
  positions: string;
  cuts: [keyStart: number, valueStart: number, valueEnd: number];
  keyValue: string;
  alsoOut: 'q' | 'k' | 'v' | 'turned';
}

/** Attention as the rule wants it, 2 heads of 4 + 2 and 3 dims, but for what is changed; whether it was fused. */
function isFused(changes: Partial<Changes>, heads = 2): boolean {
  const graph = new Graph();
  const [cos, sin] = ['cos', 'sin'].map((name) => graph.input(name, [8, 1], 'fp32')) as [Value, Value];
  const positions = (name: string) => graph.input(name, [1, 5], 'int32');
  const keyValue = (name: string) => graph.input(name, [1, 5, heads, 8], 'fp32');
  const [keyStart, valueStart, valueEnd] = changes.cuts ?? [0, 4, 8];
  const query = graph.input('q', [1, 5, heads, 6], 'fp32');
  const q = rotary(query, cos, sin, positions('positions'), { layout: 'half', offset: 4, ...changes.query });
  const shared = graph.input('shared', [1, 5, 1, 2], 'fp32');
  const turned = rotary(shared, cos, sin, positions(changes.positions ?? 'positions'), {
    layout: 'half',
    ...changes.shared,
  });
  const plain = slice(keyValue('keyValue'), 3, keyStart, keyStart + 4);
  const k = concat([plain, broadcastTo(turned, [1, 5, heads, 2])], 3);
  const v = slice(keyValue(changes.keyValue ?? 'keyValue'), 3, valueStart, valueEnd);
  graph.output('o', attention(q, k, v, { causal: true, scale: 1 }));
  if (changes.alsoOut) graph.output('also', { q, k, v, turned }[changes.alsoOut]);
  return counts(fuse(graph)).fused === 1;
}

describe('the rule', () => {
  it('takes any number of heads', () => {
    expect(isFused({})).toBe(true);
    expect(isFused({}, 1)).toBe(true);
  });

  it.each<Partial<Changes>>([
    { query: { layout: 'interleaved' } },
    { query: { inverse: true }, shared: { inverse: true } },
    { query: { offset: 3 } },
    { shared: { inverse: true } },
    { positions: 'others' },
    { cuts: [1, 4, 8] },
    { cuts: [0, 5, 8] },
    { cuts: [0, 4, 7] },
    { keyValue: 'another' },
    { alsoOut: 'q' },
    { alsoOut: 'k' },
    { alsoOut: 'v' },
    { alsoOut: 'turned' },
  ])('leaves alone what differs: %o', (changes) => {
    expect(isFused(changes)).toBe(false);
  });
});
