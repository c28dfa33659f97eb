// What the passes fuse computes what the plain graph computes: a whole model with its loss and gradients, and each rule alone.
import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { sizeOf } from '../../src/core/shape.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { modelFromConfig } from '../../src/models/families.js';
import { batchInputs, type Model } from '../../src/models/model.js';
import { ParameterScope } from '../../src/nn/parameters.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { reshape, slice } from '../../src/ops/shape.js';
import { foldCasts } from '../../src/passes/fold-casts.js';
import { fuseAddends } from '../../src/passes/fuse-addends.js';
import { fuseResidualNorm } from '../../src/passes/fuse-residual-norm.js';
import { joinSlices } from '../../src/passes/join-slices.js';
import { narrow, type PrecisionDType } from '../../src/passes/narrow.js';
import { type Pass, pipeline, runForwardPasses, runPasses } from '../../src/passes/pipeline.js';
import { prune } from '../../src/passes/prune.js';
import { plan } from '../../src/runtime/plan.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { relativeNorm } from '../support/compare.js';
import { testDevice } from '../support/op-case.js';
import { uniformPrecision } from '../support/precision.js';
import { Rng } from '../support/rng.js';
import { tinyConfig } from '../train/tiny.js';

const gpt2 = { model_type: 'gpt2', vocab_size: 61, n_positions: 32, n_embd: 24, n_layer: 2, n_head: 2 };
const [batch, tokens] = [2, 12];

/** Forward, loss and the gradients of all parameters. */
function traceGradients(model: Model, forwardPasses: Pass): Graph {
  const traced = new Graph();
  const { hidden, head } = model.forward(
    new ParameterScope(traced, new Map()),
    batchInputs(traced, batch, tokens, model.mtpDepth),
  );
  const labels = reshape(traced.input('labels', [batch, tokens], 'int32'), [-1]);
  const scale = traced.input('scale', [1], 'fp32');
  traced.output('loss', linearCrossEntropy(reshape(hidden, [batch * tokens, -1]), head, labels, scale).loss);
  const graph = forwardPasses(traced);
  const slots = [...graph.slots];
  const found = gradients(
    graph.outputs.get('loss') as Value,
    slots.map(([, slot]) => slot),
  );
  for (const [i, [name]] of slots.entries()) graph.output(`gradient ${name}`, found[i] as Value);
  return graph;
}

async function results(graph: Graph): Promise<Map<string, Float32Array>> {
  verify(graph);
  const device = testDevice();
  const program = device.load(plan(graph, device.target));
  const slots: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of program.slots) {
    const rng = new Rng(name);
    slots[name] = device.allocate(shape, dtype);
    await slots[name].write(Float32Array.from({ length: sizeOf(shape) }, () => 0.3 * rng.normal()));
  }
  const ids = (of: (i: number) => number) => Int32Array.from({ length: batch * tokens }, (_, i) => of(i));
  const known = {
    tokens: ids((i) => (i * 7) % 61),
    mtpTokens1: ids((i) => (i * 5) % 61),
    labels: ids((i) => (i * 11) % 61),
    positions: ids((i) => i % tokens),
    docIds: ids((i) => (i % tokens >= 8 ? 1 : 0)),
    scale: Float32Array.of(1 / (batch * tokens)),
  };
  const inputs = Object.fromEntries(program.inputs.map(({ name }) => [name, known[name as keyof typeof known]]));
  await device.run([{ program, slots, inputs }]);
  const found = new Map<string, Float32Array>();
  for (const { name } of program.outputs) found.set(name, await (slots[name] as Tensor).toFloat32());
  for (const tensor of Object.values(slots)) tensor.dispose();
  return found;
}

const names = (graph: Graph) => graph.nodes.filter(({ op }) => op.kernel).map(({ op }) => op.name);

describe.each([
  ['DeepSeek-V3', modelFromConfig(tinyConfig)],
  ['GPT-2', modelFromConfig(gpt2)],
])('%s', (family, model) => {
  const plain = (dtype: PrecisionDType) => (graph: Graph) =>
    dtype === 'fp32' ? graph : narrow(graph, uniformPrecision(dtype));
  it.each([
    ['fp32', 2e-6],
    ['bf16', 4e-2],
    ['fp16', 5e-3],
  ] as const)('has the loss and gradients of its plain graph in %s', async (dtype, allowed) => {
    const unfused = prune(traceGradients(model, plain(dtype)));
    const fused = runPasses(traceGradients(model, (graph) => runForwardPasses(graph, uniformPrecision(dtype))));
    expect(names(fused).length).toBeLessThan(0.9 * names(unfused).length);
    expect(names(fused)).toContain('matmul-accumulate');
    if (family === 'DeepSeek-V3') {
      expect(names(fused)).toEqual(expect.arrayContaining(['add-rms-norm', 'latent-heads', 'latent-heads-backward']));
    }
    const [expected, found] = [await results(unfused), await results(fused)];
    expect([...found.keys()]).toEqual([...expected.keys()]);
    for (const [name, values] of expected) {
      expect(relativeNorm(found.get(name) as Float32Array, values), name).toBeLessThan(allowed);
    }
  });

  it.each([
    ['bf16', 0.15],
    ['fp16', 0.02],
    ['fp8', 0.4],
  ] as const)('has gradients near those of fp32 in %s, all of them in fp32', async (dtype, allowed) => {
    const run = (chosen: PrecisionDType) =>
      results(runPasses(traceGradients(model, (graph) => runForwardPasses(graph, uniformPrecision(chosen)))));
    const [exact, rounded] = [await run('fp32'), await run(dtype)];
    let changed = 0;
    for (const [name, values] of exact) {
      const found = rounded.get(name) as Float32Array;
      // Rounding may change a router's choice, and with it an expert's whole gradient.
      if (!name.includes('experts.') && !name.includes('gate')) {
        expect(relativeNorm(found, values), name).toBeLessThan(allowed);
      }
      if (relativeNorm(found, values) > 1e-4) changed++;
    }
    expect(changed).toBeGreaterThan(exact.size / 2);
  });

  it('reads the same after a second run of the passes', () => {
    const once = runPasses(traceGradients(model, (graph) => runForwardPasses(graph, uniformPrecision('bf16'))));
    expect(names(runPasses(once, pipeline))).toEqual(names(once));
  });
});

/** Names of what computes after one pass. */
function opsAfter(pass: Pass, build: (graph: Graph) => void): string[] {
  const graph = new Graph();
  build(graph);
  const made = prune(pass(graph));
  verify(made);
  return names(made);
}

const product = (g: Graph) => matmul(g.input('a', [4, 6], 'bf16'), g.input('b', [6, 5], 'bf16'));

describe('fold-casts', () => {
  it('lets the op give the wanted dtype, through views', () => {
    expect(opsAfter(foldCasts, (g) => g.output('y', cast(product(g), 'fp32')))).toEqual(['matmul']);
    expect(opsAfter(foldCasts, (g) => g.output('y', cast(reshape(product(g), [20]), 'fp32')))).toEqual(['matmul']);
  });

  it('leaves a value that something else reads, and ops that cannot', () => {
    const both = (g: Graph) => {
      const p = product(g);
      g.output('p', p);
      g.output('y', cast(p, 'fp32'));
    };
    expect(opsAfter(foldCasts, both)).toEqual(['matmul', 'cast']);
    const norm = (g: Graph) => rmsNorm(g.input('x', [4, 6], 'bf16'), g.input('w', [6], 'fp32'), 1e-6);
    expect(opsAfter(foldCasts, (g) => g.output('y', cast(norm(g), 'fp32')))).toEqual(['rms-norm', 'cast']);
  });
});

describe('fuse-addends', () => {
  const addend = (g: Graph, shape: number[]) => g.input('r', shape, 'bf16');

  it('adds matrices and rows, on either side', () => {
    expect(opsAfter(fuseAddends, (g) => g.output('y', add(product(g), addend(g, [4, 5]))))).toEqual([
      'matmul-accumulate',
    ]);
    expect(opsAfter(fuseAddends, (g) => g.output('y', add(addend(g, [5]), product(g))))).toEqual(['matmul-accumulate']);
  });

  it('leaves other shapes, and products that something else reads', () => {
    expect(opsAfter(fuseAddends, (g) => g.output('y', add(product(g), addend(g, [4, 1]))))).toEqual(['matmul', 'add']);
    const both = (g: Graph) => {
      const p = product(g);
      g.output('p', p);
      g.output('y', add(p, addend(g, [4, 5])));
    };
    expect(opsAfter(fuseAddends, both)).toEqual(['matmul', 'add']);
  });

  it('takes one of two products', () => {
    const two = (g: Graph) =>
      g.output('y', add(product(g), matmul(g.input('c', [4, 3], 'bf16'), g.input('d', [3, 5], 'bf16'))));
    expect(opsAfter(fuseAddends, two)).toEqual(['matmul', 'matmul-accumulate']);
  });
});

describe('fuse-residual-norm', () => {
  const x = (g: Graph, name: string) => g.input(name, [4, 6], 'fp32');
  const weight = (g: Graph) => g.input('w', [6], 'fp32');

  it('fuses a sum that the norm reads first', () => {
    const block = (g: Graph) => {
      const h = add(x(g, 'x'), x(g, 'r'));
      g.output('y', add(h, rmsNorm(h, weight(g), 1e-6)));
    };
    expect(opsAfter(fuseResidualNorm, block)).toEqual(['add-rms-norm', 'add']);
  });

  it('leaves a sum that something reads before, or that broadcasts', () => {
    const earlier = (g: Graph) => {
      const h = add(x(g, 'x'), x(g, 'r'));
      g.output('twice', multiply(h, 2));
      g.output('y', rmsNorm(h, weight(g), 1e-6));
    };
    expect(opsAfter(fuseResidualNorm, earlier)).toEqual(['add', 'multiply', 'rms-norm']);
    const row = (g: Graph) => g.output('y', rmsNorm(add(x(g, 'x'), weight(g)), weight(g), 1e-6));
    expect(opsAfter(fuseResidualNorm, row)).toEqual(['add', 'rms-norm']);
  });
});

describe('join-slices', () => {
  const joined = (cuts: readonly (readonly [number, number])[]) =>
    opsAfter(joinSlices, (g) => {
      const x = g.input('x', [4, 6], 'fp32');
      const loss = cuts
        .map(([start, end], i) => sum(multiply(slice(x, 1, start, end), i + 2), [0, 1], true))
        .reduce((a, b) => add(a, b));
      g.output('dx', gradients(reshape(loss, [1]), [x])[0] as Value);
    }).filter((name) => /slice|concat|add/.test(name));

  it('makes the gradients of all parts one value', () => {
    expect(
      joined([
        [0, 2],
        [2, 3],
        [3, 6],
      ]),
    ).toEqual(['concat']);
    expect(
      joined([
        [3, 6],
        [0, 3],
      ]),
    ).toEqual(['concat']);
  });

  it('leaves gaps and overlaps', () => {
    expect(
      joined([
        [0, 2],
        [3, 6],
      ]),
    ).toEqual(['unslice', 'unslice', 'add']);
    expect(
      joined([
        [0, 4],
        [3, 6],
      ]),
    ).toEqual(['unslice', 'unslice', 'add']);
  });
});
