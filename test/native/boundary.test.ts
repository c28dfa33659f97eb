// What the binary does with callers who do everything wrong. None of it may crash the process.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { loadAddon, type NativeDevice } from '../../src/addon/addon.js';
import { Graph } from '../../src/graph/graph.js';
import { negate } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { openDevice } from '../../src/runtime/device.js';
import { plan } from '../../src/runtime/plan.js';
import { expectHadalError } from '../support/op-case.js';

const { Storage, Program, Device } = loadAddon();
// biome-ignore lint/suspicious/noExplicitAny: wrong types are the point
const wrong = (value: unknown) => value as any;

function negation(size = 4) {
  const graph = new Graph();
  graph.update('x', negate(graph.slot('x', [size], 'fp32')));
  graph.output('y', negate(graph.input('in', [size], 'fp32')));
  const { words, params, constants, kernels } = plan(graph, 1);
  return new Program(words, params, constants, kernels, 1, 'cpu');
}

describe('constructors', () => {
  it('refuse nonsense', () => {
    for (const bytes of [-1, Number.NaN, 2 ** 60, 'x', undefined, null, {}]) {
      expect(() => new Storage(wrong(bytes)), `${bytes}`).toThrow(/\[native\]/);
    }
    for (const threads of [0, -1, 1025, undefined]) {
      expect(() => new Device(wrong(threads)), `${threads}`).toThrow(/threads/);
    }
    expect(() => new Device('x', 0)).toThrow(/no backend 'x'/);
    const [words, bytes] = [new Float64Array(), new Uint8Array()];
    for (const list of [
      [],
      [words],
      [words, bytes, bytes],
      [bytes, bytes, bytes, [], 1],
      [words, bytes, bytes, [], 0],
    ]) {
      expect(() => new Program(...(list as ConstructorParameters<typeof Program>))).toThrow(/\[native\]/);
    }
    expect(() => wrong(Storage)(8)).toThrow();
  });

  it('say so when the system has no such memory', () => {
    using device = openDevice('cpu', { threads: 1 });
    expectHadalError(() => device.allocate([2 ** 50], 'fp32'), 'HADAL_ERR_MEMORY', /the system refused/);
  });
});

describe('handles', () => {
  it('are known whatever their prototype says', async () => {
    using device = openDevice('cpu', { threads: 1 });
    const native: NativeDevice = device.native;
    const array = new Float32Array(4);
    const disguised = Object.setPrototypeOf(new Device(1), Storage.prototype);
    for (const fake of [
      null,
      7,
      'x',
      {},
      [],
      Object.create(Storage.prototype),
      disguised,
      negation(),
      new Proxy(new Storage(16), {}),
    ]) {
      expect(() => native.read(wrong(fake), 0, array)).toThrow(/Storage handle/);
      expect(() => native.run([], wrong(fake), false)).toThrow(/Storage handle/);
    }
    expect(() => Storage.prototype.dispose.call(wrong({}))).toThrow();
    expect(() => wrong(native).run.call(new Storage(8), [], new Storage(8), false)).toThrow();
  });

  it('may be disposed of twice, and say so when used afterwards', async () => {
    using device = openDevice('cpu', { threads: 1 });
    const storage = new Storage(64);
    storage.dispose();
    storage.dispose();
    expect(storage.bytes).toBe(0);
    expect(() => device.native.read(storage, 0, new Float32Array(4))).toThrow(/disposed/);
    const tensor = device.allocate([4], 'fp32');
    tensor.dispose();
    tensor.dispose();
    await expect(tensor.toFloat32()).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });

  it('of a device that was shut down refuse work, twice', async () => {
    const device = openDevice('cpu', { threads: 1 });
    const tensor = device.allocate([4], 'fp32');
    device.dispose();
    device.dispose();
    await expect(tensor.toFloat32()).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED', message: /shut down/ });
    await expect(device.run([])).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
    expect(device.native.threads).toBe(0);
  });

  it('forgotten by JavaScript give their memory back', async () => {
    const script = `
      import { readFileSync } from 'node:fs';
      import { openDevice } from './dist/runtime/device.js';
      const device = openDevice('cpu', { threads: 1 });
      const block = new Float32Array(1 << 22).fill(1);
      for (let i = 0; i < 40; i++) {
        await device.allocate([1 << 22], 'fp32').write(block);
        global.gc();
        await new Promise((resolve) => setImmediate(resolve));
      }
      console.log(/VmRSS:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1] / 1024);`;
    // 40 blocks of 16 MiB would be 640.
    expect(Number((await node(['--expose-gc', '--input-type=module', '-e', script])).stdout)).toBeLessThan(300);
  });
});

const node = (args: string[]) =>
  promisify(execFile)(process.execPath, args, { cwd: fileURLToPath(new URL('../..', import.meta.url)) });

describe('a run', () => {
  const array = new Float32Array(4);
  const bind = (slots: unknown, inputs: unknown, program: unknown = negation()) => [{ program, slots, inputs }];

  it('refuses bindings that do not fit', () => {
    using device = openDevice('cpu', { threads: 1 });
    const [x, y, arena] = [new Storage(16), new Storage(16), new Storage(0)];
    const schedules: unknown[] = [
      'x',
      [7],
      [{}],
      bind([x, y], 'x'),
      bind('x', [array]),
      bind([x], [array]),
      bind([x, y], []),
      bind([x, y], [null]),
      bind([x, y], [{}]),
      bind([x, y], [new ArrayBuffer(16)]),
      bind([x, y], [new DataView(new ArrayBuffer(16))]),
      bind([x, y], [array.subarray(1)]),
      bind([x, new Storage(15)], [array]),
      bind([x, y], [array], x),
      bind([x, null], [array]),
    ];
    for (const schedule of schedules) {
      expect(() => device.native.run(wrong(schedule), arena, false)).toThrow(/\[native\]/);
    }
    using other = openDevice('cpu', { threads: 2 });
    expect(() => other.native.run(wrong(bind([x, y], [array])), arena, false)).toThrow(/number of threads/);
  });

  it('takes typed views of shared memory, and copies within bounds only', async () => {
    using device = openDevice('cpu', { threads: 1 });
    const [x, y] = [new Storage(16), new Storage(16)];
    const shared = new Float32Array(new SharedArrayBuffer(32), 8, 4);
    shared.set([1, 2, 3, 4]);
    await device.native.run(wrong(bind([x, y], [shared])), new Storage(0), false);
    const out = new Float32Array(new SharedArrayBuffer(16));
    await device.native.read(y, 0, out);
    expect([...out]).toEqual([-1, -2, -3, -4]);
    for (const offset of [-4, 4, Number.NaN, Number.POSITIVE_INFINITY, 'x', 2 ** 60]) {
      expect(() => device.native.read(y, wrong(offset), out), `${offset}`).toThrow(/outside/);
      expect(() => device.native.write(y, wrong(offset), out), `${offset}`).toThrow(/outside/);
    }
    expect(() => device.native.read(y, 0, wrong(out.buffer))).toThrow(/typed array/);
  });

  it('copies whole tensors into arrays of their size only', async () => {
    using device = openDevice('cpu', { threads: 1 });
    const [storage, empty] = [new Storage(16), new Storage(0)];
    const { native } = device;
    for (const [storages, targets] of [
      [storage, new Float32Array(4)],
      [[storage], [new Float32Array(3)]],
      [[storage], [new Float32Array(5)]],
      [[storage], []],
      [[{}], [new Float32Array(4)]],
      [[storage], [new ArrayBuffer(16)]],
    ]) {
      expect(() => native.snapshot(wrong(storages), wrong(targets))).toThrow(/\[native\]/);
    }
    expect(() => native.prepare(wrong([{}]))).toThrow(/\[native\]/);
    expect(() => native.prepare(wrong(5))).toThrow(/\[native\]/);
    await native.prepare([new Uint8Array(0), new Uint8Array(1), new Uint8Array(1 << 20)]);
    await native.snapshot([], []);
    const target = new Float32Array(4).fill(5);
    await native.snapshot([storage, empty], [target, new Float32Array(0)]);
    expect([...target]).toEqual([0, 0, 0, 0]);
    storage.dispose();
    expect(() => native.snapshot([storage], [target])).toThrow(/disposed/);
    native.shutdown();
    expect(() => native.snapshot([empty], [new Uint8Array(0)])).toThrow(/shut down/);
    expect(() => native.prepare([target])).toThrow(/shut down/);
  });

  it('keeps what it works on while it is queued', async () => {
    using device = openDevice('cpu', { threads: 1 });
    const [x, y] = [new Storage(16), new Storage(16)];
    await device.native.write(x, 0, Float32Array.of(1, 2, 3, 4));
    const out = new Float32Array(4);
    const done = device.native.run(wrong(bind([x, y], [array])), new Storage(0), false);
    const read = device.native.read(x, 0, out);
    x.dispose();
    await Promise.all([done, read]);
    expect([...out]).toEqual([-1, -2, -3, -4]);
  });

  it('goes on beside that of another device', async () => {
    using one = openDevice('cpu', { threads: 2 });
    using two = openDevice('cpu', { threads: 2 });
    const graph = new Graph();
    const a = graph.input('a', [96, 96], 'fp32');
    graph.output('c', matmul(a, matmul(a, a)));
    const planned = plan(graph, 2);
    const data = Float32Array.from({ length: 96 * 96 }, (_, i) => Math.sin(i));
    const results = await Promise.all(
      [one, two, one, two].map(async (device) => {
        using c = device.allocate([96, 96], 'fp32');
        for (let i = 0; i < 20; i++)
          await device.run([{ program: device.load(planned), slots: { c }, inputs: { a: data } }]);
        return c.toFloat32();
      }),
    );
    for (const result of results) expect(result).toEqual(results[0]);
    using foreign = two.allocate([96, 96], 'fp32');
    const mixed = one.run([{ program: one.load(planned), slots: { c: foreign }, inputs: { a: data } }]);
    await expect(mixed).rejects.toMatchObject({ code: 'HADAL_ERR_DEVICE' });
  });

  it('that is queued when its device ends rejects, in words', async () => {
    const device = openDevice('cpu', { threads: 2 });
    const graph = new Graph();
    let x = graph.slot('x', [384, 384], 'fp32');
    for (let i = 0; i < 400; i++) x = matmul(x, x);
    graph.update('x', x);
    const program = device.load(plan(graph, 2));
    const tensor = device.allocate([384, 384], 'fp32');
    const steps = [0, 1, 2].map(() => device.run([{ program, slots: { x: tensor } }]));
    const read = tensor.toFloat32();
    const all = Promise.allSettled([...steps, read]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    device.dispose();
    for (const result of await all) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'HADAL_ERR_DISPOSED', message: /shut down/ },
      });
    }
  });
});

describe('the binary', () => {
  it('works in a worker thread while the main thread uses it', async () => {
    const script = `
      import { Worker, isMainThread, parentPort } from 'node:worker_threads';
      import { Graph } from '${new URL('../../dist/graph/graph.js', import.meta.url)}';
      import { matmul } from '${new URL('../../dist/ops/matmul.js', import.meta.url)}';
      import { compile } from '${new URL('../../dist/runtime/compile.js', import.meta.url)}';
      import { openDevice } from '${new URL('../../dist/runtime/device.js', import.meta.url)}';
      const device = openDevice('cpu', { threads: 2 });
      const graph = new Graph();
      const a = graph.input('a', [64, 64], 'fp32');
      graph.output('c', matmul(a, a));
      const program = device.load(compile(graph, 2));
      const c = device.allocate([64, 64], 'fp32');
      const other = isMainThread ? new Worker(new URL('data:text/javascript,' + encodeURIComponent(process.env.SCRIPT)), { env: process.env }) : null;
      const theirs = other && new Promise((resolve, reject) => other.on('message', resolve).on('error', reject));
      for (let i = 0; i < 50; i++) await device.run([{ program, slots: { c }, inputs: { a: new Float32Array(4096).fill(i) } }]);
      const mine = (await c.toFloat32())[0];
      if (isMainThread) console.log(mine, await theirs);
      else parentPort.postMessage(mine);`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, SCRIPT: script },
    });
    expect(stdout).toBe(`${49 * 49 * 64} ${49 * 49 * 64}\n`);
  });
});
