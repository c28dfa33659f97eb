// Which number format each op of a forward graph is computed in.
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { modelFromConfig } from '../../src/models/families.js';
import { batchInputs } from '../../src/models/model.js';
import { ParameterScope } from '../../src/nn/parameters.js';
import { definedOps } from '../../src/ops/define-op.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { expectLayers, narrow, type Precision } from '../../src/passes/narrow.js';
import { copiedSlots, readWorkingCopies, refreshWorkingCopies } from '../../src/passes/working-copies.js';
import { expectHadalError } from '../support/op-case.js';
import { uniformPrecision } from '../support/precision.js';
import { tinyConfig } from '../train/tiny.js';

/** The forward pass of a small DeepSeek. */
function tinyForward(): Graph {
  const graph = new Graph();
  const model = modelFromConfig(tinyConfig);
  const { hidden } = model.forward(new ParameterScope(graph, new Map()), batchInputs(graph, 2, 12, model.mtpDepth));
  graph.output('hidden', hidden);
  return graph;
}

const inLayers = (dtype: Precision['dtype'], layers: Precision['layers']): Precision => ({
  ...uniformPrecision(dtype),
  layers,
});

const narrowed = (graph: Graph, precision: Precision) => {
  const made = narrow(graph, precision);
  verify(made);
  return made;
};

const dtypesOf = (build: (graph: Graph) => Value) => {
  const graph = new Graph();
  graph.output('y', build(graph));
  const made = narrowed(graph, uniformPrecision('bf16'));
  return { made, ops: made.nodes.map(({ op, outputs }) => `${op.name} ${outputs[0]?.dtype}`) };
};

it('gives products 16 bits and an output its own dtype', () => {
  const { ops, made } = dtypesOf((g) => matmul(g.input('x', [4, 6], 'fp32'), g.slot('w', [6, 5], 'fp32')));
  expect(ops).toEqual(['input fp32', 'slot fp32', 'cast bf16', 'cast bf16', 'matmul bf16', 'cast fp32']);
  expect(made.outputs.get('y')?.dtype).toBe('fp32');
});

it('casts a weight for each use, so that its gradients meet in fp32', () => {
  const { ops } = dtypesOf((g) => {
    const w = g.slot('w', [6, 6], 'fp32');
    return matmul(matmul(g.input('x', [4, 6], 'fp32'), w), w);
  });
  expect(ops.filter((op) => op === 'cast bf16')).toHaveLength(3);
});

it('leaves what follows nothing narrow, and constants, as they are', () => {
  const { ops } = dtypesOf((g) => multiply(add(g.input('x', [4, 6], 'fp32'), 1), 2));
  expect(ops.filter((op) => op.includes('bf16'))).toEqual([]);
});

it('keeps the statistics and weights of a norm in fp32', () => {
  const { made } = dtypesOf((g) => rmsNorm(g.input('x', [4, 6], 'fp32'), g.slot('w', [6], 'fp32'), 1e-6));
  const norm = made.nodes.find(({ op }) => op.name === 'rms-norm');
  expect(norm?.inputs.map((input) => input?.dtype)).toEqual(['bf16', 'fp32']);
  expect(norm?.outputs.map(({ dtype }) => dtype)).toEqual(['bf16', 'fp32']);
});

it.each(['bf16', 'fp16', 'fp8'] as const)('keeps a router and what computes its scores in fp32, in %s', (dtype) => {
  const graph = narrowed(tinyForward(), uniformPrecision(dtype));
  const routers = graph.nodes.filter(({ op }) => op.name === 'router');
  expect(routers.length).toBeGreaterThan(0);
  for (const { inputs } of routers) {
    const logits = inputs[0]?.node;
    expect(logits?.op.name).toBe('matmul');
    expect(logits?.inputs.map((input) => input?.dtype)).toEqual(['fp32', 'fp32']);
  }
});

describe('layers in other formats', () => {
  /** Dtypes of the products' factors, by layer. */
  const factors = (precision: Precision) => {
    const found = new Map<string, Set<string>>();
    for (const { op, inputs, scope } of narrowed(tinyForward(), precision).nodes) {
      if (op.name !== 'matmul' && op.name !== 'fp8-product') continue;
      const kinds = found.get(scope) ?? new Set();
      found.set(scope, kinds.add(op.name === 'matmul' ? `${inputs.map((input) => input?.dtype)}` : 'fp8'));
    }
    return Object.fromEntries([...found].map(([scope, kinds]) => [scope, [...kinds].sort().join(' ')]));
  };

  it('compute in them, later entries winning, everything within a layer', () => {
    const layers = [
      { match: 'model.layers.0', dtype: 'fp32' },
      { match: 'model.layers.{0,1}.mlp', dtype: 'fp16' },
      { match: '*.shared_experts', dtype: 'fp8' },
    ] as const;
    expect(factors(inLayers('bf16', layers))).toEqual({
      'model.layers.0.self_attn': 'fp32,fp32',
      'model.layers.0.mlp': 'fp16,fp16',
      'model.layers.1.self_attn': 'bf16,bf16',
      'model.layers.1.mlp': 'fp32,fp32', // the router
      'model.layers.1.mlp.shared_experts': 'fp8',
      'model.layers.2': 'bf16,bf16',
      'model.layers.2.self_attn': 'bf16,bf16',
      'model.layers.2.mlp': 'fp32,fp32',
      'model.layers.2.mlp.shared_experts': 'fp8',
    });
  });

  it('may be the only narrow ones', () => {
    const found = factors(inLayers('fp32', [{ match: '*.self_attn', dtype: 'bf16' }]));
    expect(found['model.layers.0.self_attn']).toBe('bf16,bf16');
    expect(found['model.layers.0.mlp']).toBe('fp32,fp32');
  });

  it('are refused where a pattern matches none', () => {
    const layers = [
      { match: 'model.layers.*', dtype: 'fp32' },
      { match: 'layers.7', dtype: 'bf16' },
    ] as const;
    expectHadalError(
      () => expectLayers(tinyForward(), inLayers('bf16', layers)),
      'HADAL_ERR_CONFIG',
      /'layers.7' in precision.layers to match a layer, it matches none; layers are model, model.layers, model.layers.0/,
    );
    expectLayers(tinyForward(), inLayers('bf16', [{ match: 'model.layers.2', dtype: 'fp16' }]));
  });
});

describe('working copies', () => {
  /** One weight that two layers read. */
  const twoReaders = (first: 'bf16' | 'fp16', second: 'bf16' | 'fp16') => {
    const graph = new Graph();
    const w = graph.slot('w', [6, 6], 'fp32');
    const hidden = graph.scoped('a', () => matmul(graph.input('x', [4, 6], 'fp32'), w));
    graph.output(
      'y',
      graph.scoped('b', () => matmul(hidden, w)),
    );
    return narrowed(
      graph,
      inLayers('fp32', [
        { match: 'a', dtype: first },
        { match: 'b', dtype: second },
      ]),
    );
  };
  const slotTypes = ({ slots }: Graph) => Object.fromEntries([...slots].map(([name, { dtype }]) => [name, dtype]));

  it('have the dtype in which the first layer reads a weight; another one casts', () => {
    const graph = readWorkingCopies(twoReaders('fp16', 'bf16'));
    verify(graph);
    expect(slotTypes(graph)).toEqual({ w: 'fp32', 'working/w': 'fp16' });
    const casts = graph.nodes.filter(({ op, inputs }) => op.name === 'cast' && inputs[0] === graph.slots.get('w'));
    expect(casts.map(({ outputs }) => outputs[0]?.dtype)).toEqual(['bf16']);
    const copies = copiedSlots(twoReaders('fp16', 'bf16'));
    expect([...copies]).toEqual([['w', { slot: 'working/w', shape: [6, 6], dtype: 'fp16' }]]);
    expect(refreshWorkingCopies(copies).updates.get('working/w')?.dtype).toBe('fp16');
  });

  it('are there whatever runs, also where a predicated range reads them first', () => {
    const graph = new Graph();
    const w = graph.slot('w', [6], 'fp32');
    const sometimes = graph.slot('sometimes', [6], 'bf16');
    graph.predicated(graph.input('flag', [1], 'int32'), () =>
      graph.update('sometimes', multiply(cast(w, 'bf16'), sometimes)),
    );
    graph.output('always', multiply(cast(w, 'bf16'), sometimes));
    const read = readWorkingCopies(graph);
    verify(read);
    expect(read.slots.get('working/w')?.node.predicate).toBeNull();
  });
});

describe('docs/precision.md', () => {
  it('says of every op what the op says of itself', async () => {
    const folder = new URL('../../src/ops/', import.meta.url);
    for (const file of readdirSync(folder)) await import(new URL(file, folder).href);
    const page = readFileSync(new URL('../../docs/precision.md', import.meta.url), 'utf8');
    const section = page.split('\n## ').find((text) => text.startsWith('Which op computes in what')) as string;
    // | `op`, `op` | inputs | … |
    const rows = section.split('\n').flatMap((line) => {
      const [, names, inputs] = /^\| (`[a-zA-Z\d`, -]+`) \| ([^|]+) \|/.exec(line) ?? [];
      return (names?.split(', ') ?? []).map((name) => [name.replaceAll('`', ''), inputs?.trim()] as const);
    });
    const rule = ({ narrow: inputs }: { narrow?: readonly number[] | 'follow' | undefined }) =>
      inputs === 'follow' ? 'follow' : inputs?.length === 0 ? 'output' : inputs?.join(', ');
    const expected = [...definedOps()].filter(([, op]) => op.narrow).map(([name, op]) => [name, rule(op)]);
    expect(Object.fromEntries(rows)).toEqual(Object.fromEntries(expected));
    expect(rows).toHaveLength(expected.length);
    for (const [name, { precise }] of definedOps()) if (precise) expect(section).toContain(`\`${name}\``);
  });
});
