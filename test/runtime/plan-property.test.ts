import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Graph, Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { fusions, ordering, runPasses } from '../../src/passes/pipeline.js';
import { recomputation } from '../../src/passes/recompute.js';
import { compile } from '../../src/runtime/compile.js';
import { plan } from '../../src/runtime/plan.js';
import { testDevice } from '../support/op-case.js';
import { type RandomProgram, randomProgram } from '../support/random-program.js';
import { Rng } from '../support/rng.js';

type Planner = (graph: Graph, threads: number) => ReturnType<typeof plan>;

/** Runs a program twice from the same state; both must leave what JavaScript computed. */
async function check({ graph, slots, inputs, expected }: RandomProgram, planner: Planner): Promise<void> {
  verify(graph);
  const device = testDevice();
  const planned = planner(graph, device.threads);
  const program = device.load(planned);
  // What the plan says is what the native side takes.
  expect(program.native.arenaBytes).toBeLessThanOrEqual(planned.arenaBytes);
  const tensors = Object.fromEntries(
    program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
  );
  for (let run = 0; run < 2; run++) {
    for (const [name, tensor] of Object.entries(tensors)) {
      await tensor.write(slots.get(name) ?? new Float32Array(tensor.size).fill(Number.NaN));
    }
    await device.run([{ program, slots: tensors, inputs }]);
    for (const [name, data] of expected) {
      const got = await tensors[name]?.toFloat32();
      if (!got || got.some((x, i) => x !== data[i]))
        throw new Error(`'${name}' expected ${data.slice(0, 8)}, got ${got?.slice(0, 8)}`);
    }
  }
  for (const tensor of Object.values(tensors)) tensor.dispose();
}

const seeds = fc.integer({ min: 0, max: 2 ** 30 });

describe('random programs', () => {
  it('leave in slots and outputs what JavaScript computes, planned as traced', async () => {
    await fc.assert(
      fc.asyncProperty(seeds, (seed) => check(randomProgram(new Rng(seed)), plan)),
      { numRuns: 250 },
    );
  });

  it('do so after all passes, which found what they fuse', async () => {
    const found = new Set<string>();
    const passed: Planner = (graph, threads) => {
      const planned = compile(graph, threads);
      for (const { op } of planned.instructions) found.add(op);
      return planned;
    };
    await fc.assert(
      fc.asyncProperty(seeds, (seed) => check(randomProgram(new Rng(seed)), passed)),
      { numRuns: 250 },
    );
    const fused = ['matmul-accumulate', 'add-rms-norm', 'concat', 'fused-elementwise'];
    expect([...found]).toEqual(expect.arrayContaining(fused));
  });

  it('do so where backward computes again what forward did not keep, whichever nodes and values these are', async () => {
    let again = 0;
    const program = (seed: number) => {
      const rng = new Rng(seed);
      const traced = randomProgram(rng);
      // Most of what comes late, and some of the rest, is of backward.
      const { nodes } = traced.graph;
      for (const [i, node] of nodes.entries())
        node.isBackward ||= rng.integer(nodes.length) < i && rng.integer(2) === 0;
      return check(traced, (graph, threads) => {
        const fused = rng.integer(2) === 0 ? graph : runPasses(graph, fusions);
        const values = new Set(fused.nodes.flatMap(({ outputs }) => outputs.filter(() => rng.integer(3) === 0)));
        const kept = (value: Value) => values.has(value);
        again += recomputation(fused, kept).again.size;
        const ordered = runPasses(fused, ordering(kept));
        verify(ordered);
        return plan(ordered, threads);
      });
    };
    await fc.assert(fc.asyncProperty(seeds, program), { numRuns: 250 });
    expect(again).toBeGreaterThan(250);
  });

  it('do so where every value is an output as well, which needs no reuse of memory', async () => {
    const everything = (seed: number) => {
      const program = randomProgram(new Rng(seed));
      program.values.forEach((value, i) => {
        program.graph.output(`value${i}`, value);
      });
      return check(program, plan);
    };
    await fc.assert(fc.asyncProperty(seeds, everything), { numRuns: 60 });
  });

  it('do so on several queues, with tensors large enough to meet each other', async () => {
    const large = (seed: number) =>
      check(randomProgram(new Rng(seed), { rows: 1 << 12, nodes: 10, isAsync: true }), plan);
    await fc.assert(fc.asyncProperty(seeds, large), { numRuns: 30 });
  }, 60_000);
});
