// Programs whose slots lie in a file: the same results, fetched ahead, released behind, a window of them in memory.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { Graph, type Value } from '../../src/graph/graph.js';
import { multiply } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { BackingFile } from '../../src/runtime/backing-file.js';
import { compile } from '../../src/runtime/compile.js';
import { type IsOffloaded, type Plan, plan } from '../../src/runtime/plan.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { testDevice } from '../support/op-case.js';
import { randomProgram } from '../support/random-program.js';
import { residentFileBytes } from '../support/resident.js';
import { Rng } from '../support/rng.js';

const directory = mkdtempSync(join(tmpdir(), 'hadal-offload-'));
afterAll(() => rmSync(directory, { recursive: true }));

const ops = ({ instructions }: Plan) => instructions.map(({ op }) => op);
const mebibytes = 2 ** 20;

/** x · w0 · w1 · …, each weight of so many MiB, forward and again in reverse; updates of the weights, if wanted. */
function chain(count: number, size: number, { updates = false } = {}): Graph {
  const graph = new Graph();
  const side = Math.sqrt((size * mebibytes) / 4);
  const weights = Array.from({ length: count }, (_, i) => graph.slot(`w${i}`, [side, side], 'fp32'));
  const along = (x: Value, order: readonly Value[]) => order.reduce((y, w) => matmul(y, w), x);
  const x = graph.input('x', [2, side], 'fp32');
  graph.output('y', along(along(x, weights), [...weights].reverse()));
  if (updates) for (const [i, w] of weights.entries()) graph.update(`w${i}`, multiply(w, 0.5));
  return graph;
}
const isWeight: IsOffloaded = ({ name }) => /^w\d+$/.test(name);

describe('a plan', () => {
  it('without offloaded slots fetches nothing', () => {
    const planned = plan(chain(3, 16), 2);
    expect(ops(planned)).not.toContain('prefetch');
    expect(planned.offloadWindowBytes).toBe(0);
  });

  it('fetches what the next group reads while one runs, and releases behind', () => {
    const planned = plan(chain(4, 16), 2, isWeight);
    const told = ops(planned).map((op) => op.replace('matmul', 'm').replace('prefetch', '+').replace('release', '-'));
    // w2 is used again two products later: it stays.
    expect(told.join(' ')).toBe('+ + m - + m - + m m m - + m - + m - m -');
    expect(planned.slots.filter(({ offloaded }) => offloaded).map(({ name }) => name)).toEqual([
      'w0',
      'w1',
      'w2',
      'w3',
    ]);
  });

  it('has no more instructions of its own for it: updates go where they went', () => {
    const others = (planned: Plan) => ops(planned).filter((op) => op !== 'prefetch' && op !== 'release');
    const build = () => chain(4, 16, { updates: true });
    const [plain, offloaded] = [plan(build(), 2), plan(build(), 2, isWeight)];
    expect(others(offloaded)).toEqual(ops(plain));
    expect(offloaded.arenaBytes).toBe(plain.arenaBytes);
  });

  it('says how much is in memory at once', () => {
    // The group that runs and the next one.
    expect(plan(chain(8, 16), 2, isWeight).offloadWindowBytes).toBe(2 * 16 * mebibytes);
    // Small ones are fetched together.
    expect(plan(chain(8, 1), 2, isWeight).offloadWindowBytes).toBe(8 * mebibytes);
  });
});

describe.runIf(process.platform === 'linux')('a run', () => {
  it('leaves the same results, whatever lies in a file', async () => {
    const check = async (seed: number, mask: number) => {
      const { graph, slots, inputs, expected } = randomProgram(new Rng(seed), { isAsync: seed % 2 === 0 });
      const names = [...slots.keys()];
      const device = testDevice();
      const program = device.load(plan(graph, device.target, ({ name }) => (mask & (1 << names.indexOf(name))) > 0));
      using file = new BackingFile(directory);
      const tensors = Object.fromEntries(
        program.slots.map(({ name, shape, dtype, offloaded }) => [
          name,
          device.allocate(shape, dtype, { file: offloaded ? file : null }),
        ]),
      );
      for (const [name, data] of slots) await tensors[name]?.write(data);
      await device.run([{ program, slots: tensors, inputs }]);
      for (const [name, data] of expected) {
        const got = await tensors[name]?.toFloat32();
        if (!got || got.some((x, i) => x !== data[i])) throw new Error(`'${name}' expected ${data}, got ${got}`);
      }
      for (const tensor of Object.values(tensors)) tensor.dispose();
    };
    await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 30 }), fc.integer({ min: 1, max: 7 }), check), {
      numRuns: 60,
    });
  });

  it('has a window of the slots in memory', async () => {
    const device = testDevice();
    const planned = compile(chain(12, 16, { updates: true }), device.target, { isOffloaded: isWeight });
    const program = device.load(planned);
    using file = new BackingFile(directory);
    const tensors: Record<string, Tensor> = {};
    for (const { name, shape, dtype, offloaded } of program.slots) {
      tensors[name] = device.allocate(shape, dtype, { file: offloaded ? file : null });
    }
    const before = residentFileBytes();
    let most = 0;
    for (let run = 0; run < 3; run++) {
      const inputs = { x: new Float32Array(tensors.y?.size ?? 0).fill(1) };
      const step = device.run([{ program, slots: tensors, inputs }]);
      let isOver = false;
      const over = step.finally(() => {
        isOver = true;
      });
      while (!isOver) {
        most = Math.max(most, residentFileBytes() - before);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      await over;
    }
    expect(planned.offloadWindowBytes).toBe(2 * 16 * mebibytes);
    expect(most).toBeGreaterThan(16 * mebibytes);
    expect(most).toBeLessThan(planned.offloadWindowBytes + 2 * mebibytes);
    expect(residentFileBytes() - before).toBeLessThan(mebibytes);
    for (const tensor of Object.values(tensors)) tensor.dispose();
  });
});
