// Programs that no planner wrote: whatever their words say, they are refused or run within their memory.
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { Graph } from '../../src/graph/graph.js';
import { add, exp, multiply } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { sum } from '../../src/ops/reduce.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { softmax } from '../../src/ops/softmax.js';
import { type Plan, plan } from '../../src/runtime/plan.js';

const { Storage, Program, Device, kernels, bufferList, workspaceBytes } = loadAddon();
/** The same programs every time, so that a failure can be looked at; other seeds look further. */
const seed = Number(process.env.HADAL_FUZZ_SEED ?? 1);
const names = Object.keys(kernels());
const device = new Device(2);
afterAll(() => device.shutdown());

function sample(): Plan {
  const graph = new Graph();
  const x = graph.slot('x', [8, 16], 'fp32');
  const flag = graph.input('flag', [1], 'int32');
  const y = graph.onQueue('copy', () => multiply(x, 2));
  const z = rmsNorm(add(softmax(y), x), graph.input('w', [16], 'fp32'), 1e-6);
  graph.predicated(flag, () => graph.update('x', exp(z)));
  graph.output('out', sum(matmul(z, y, { transposeB: true }), [0]));
  return plan(graph, 2);
}

/** Makes a program of what it is given and runs it, where that is not refused. Gives whether it ran. */
async function tryRun({
  words,
  params,
  constants,
  kernels: list,
}: Pick<Plan, 'words' | 'params' | 'constants' | 'kernels'>) {
  try {
    const program = new Program(words, params, constants, list, 2, 'cpu');
    if (program.arenaBytes > 2 ** 28) return false;
    const slots = [0, 1].map(() => new Storage(4096));
    await device.run(
      [{ program, slots, inputs: [Int32Array.of(1), new Float32Array(16)] }],
      new Storage(program.arenaBytes),
      false,
    );
    return true;
  } catch (error) {
    expect((error as Error).message).toMatch(/^\[[a-z-]+\]/);
    return false;
  }
}

const word = fc.oneof(
  fc.integer({ min: 0, max: 64 }),
  fc.integer({ min: 0, max: 1024 }).map((n) => n * 64),
  fc.double(),
  fc.constantFrom(-1, 2 ** 31, 2 ** 52, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY),
);

describe('words', () => {
  it('of a real program run', async () => {
    expect(await tryRun(sample())).toBe(true);
  });

  it('at random are refused', async () => {
    const property = fc.asyncProperty(fc.array(word, { maxLength: 60 }), async (list) => {
      await tryRun({
        words: Float64Array.from(list),
        params: new Uint8Array(4096),
        constants: new Uint8Array(64),
        kernels: names,
      });
    });
    await fc.assert(property, { numRuns: 300, seed });
  });

  it('of a real program with some changed never leave their memory', async () => {
    const real = sample();
    const change = fc.tuple(fc.integer({ min: 0, max: real.words.length - 1 }), word);
    let ran = 0;
    const property = fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
      const words = real.words.slice();
      for (const [at, value] of changes) words[at] = value;
      if (await tryRun({ ...real, words })) ran++;
    });
    await fc.assert(property, { numRuns: 600, seed });
    expect(ran).toBeGreaterThan(0);
  });

  it('cut short are refused', async () => {
    const real = sample();
    for (let length = 1; length < real.words.length; length++) {
      await tryRun({ ...real, words: real.words.subarray(0, length) });
    }
  });
});

describe('params', () => {
  const random = fc.uint8Array({ minLength: 512, maxLength: 512 });
  const small = fc.array(fc.integer({ min: -2, max: 40 }), { minLength: 64, maxLength: 64 }).map((list) => {
    const view = new DataView(new ArrayBuffer(512));
    for (const [i, n] of list.entries()) view.setBigInt64(8 * i, BigInt(n), true);
    return new Uint8Array(view.buffer);
  });
  for (const name of names) {
    it(`of ${name} at random are refused or described`, () => {
      const { paramsBytes } = kernels()[name] as { paramsBytes: number };
      const property = fc.property(fc.oneof(random, small), (bytes) => {
        const params = new Uint8Array(paramsBytes);
        params.set(bytes.subarray(0, paramsBytes));
        let list: ReturnType<typeof bufferList>;
        try {
          list = bufferList(name, params);
        } catch (error) {
          expect((error as Error).message).toContain(`[${name}]`);
          return;
        }
        for (const buffer of list) expect(buffer.bytes).toBeGreaterThanOrEqual(0);
        expect(workspaceBytes(name, params, 2, 'cpu')).toBeGreaterThanOrEqual(0);
      });
      fc.assert(property, { numRuns: 150, seed });
    });
  }

  it('of a real program with some bytes changed never leave its memory', async () => {
    const real = sample();
    const change = fc.tuple(fc.integer({ min: 0, max: real.params.length - 1 }), fc.integer({ min: 0, max: 255 }));
    const property = fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
      const params = real.params.slice();
      for (const [at, value] of changes) params[at] = value;
      await tryRun({ ...real, params });
    });
    await fc.assert(property, { numRuns: 600, seed });
  });

  it('need the right size and a known kernel', () => {
    expect(() => bufferList('rms-norm', new Uint8Array(3))).toThrow(/wrong size/);
    expect(() => bufferList('no-such', new Uint8Array(8))).toThrow(/no kernel 'no-such'/);
  });
});
