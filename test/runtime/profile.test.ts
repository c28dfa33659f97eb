// What a profiled run is shown as: tables by op and by module, and a trace for Chrome and Perfetto.
import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { exp } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { chromeTrace } from '../../src/runtime/chrome-trace.js';
import { compile } from '../../src/runtime/compile.js';
import type { InstructionTime } from '../../src/runtime/device.js';
import { profileRows, profileTable } from '../../src/runtime/profile.js';
import { testDevice } from '../support/op-case.js';

const time = (op: string, scope: string, ms: number, rest: Partial<InstructionTime> = {}): InstructionTime => ({
  ...{ op, scope, ms, kernel: op, queue: 'compute', program: 'whole' },
  ...{ flops: 4e6, bytesRead: 1e6, bytesWritten: 1e6 },
  ...rest,
});

const times = [
  time('matmul', 'model.layers.0.mlp', 2),
  time('matmul', 'model.layers.1.mlp', 3),
  time('add', 'model.layers.1', 1, { flops: 0 }),
  time('sum', '', 4, { queue: 'communication', program: 'apply' }),
];

describe('profiles', () => {
  it('are summed by op, the most expensive first', () => {
    expect(profileRows(times, 'op')).toEqual([
      { name: 'matmul', calls: 2, ms: 5, share: 0.5, gflops: 1.6, gbs: 0.8 },
      { name: 'sum', calls: 1, ms: 4, share: 0.4, gflops: 1, gbs: 0.5 },
      { name: 'add', calls: 1, ms: 1, share: 0.1, gflops: 0, gbs: 2 },
    ]);
  });

  it('are summed by module, layers of one kind together', () => {
    expect(profileRows(times, 'module').map(({ name, calls }) => [name, calls])).toEqual([
      ['model.layers.*.mlp', 2],
      ['(none)', 1],
      ['model.layers.*', 1],
    ]);
    expect(profileTable(times, 'module')).toMatch(/^module +calls .*\nmodel\.layers\.\*\.mlp +2 +5\.00 +50\.0 %/);
  });

  it('of nothing have no shares that are no numbers', () => {
    expect(profileTable([time('add', '', 0)])).toMatch(/add +1 +0\.00 +0\.0 % +- +-/);
  });
});

describe('a Chrome trace', () => {
  it('has an event an instruction on the track of its queue, each behind the one before it', () => {
    const { traceEvents } = chromeTrace(times);
    const tracks = traceEvents.filter(({ ph }) => ph === 'M');
    expect(tracks.map(({ tid, args }) => [tid, args.name])).toEqual([
      [0, 'compute'],
      [1, 'communication'],
    ]);
    const events = traceEvents.filter(({ ph }) => ph === 'X');
    expect(events.map(({ name, tid, ts, dur }) => [name, tid, ts, dur])).toEqual([
      ['matmul', 0, 0, 2000],
      ['matmul', 0, 2000, 3000],
      ['add', 0, 5000, 1000],
      ['sum', 1, 0, 4000],
    ]);
    expect(events[0]?.args).toMatchObject({ module: 'model.layers.0.mlp', program: 'whole', 'GFLOP/s': 2, 'GB/s': 1 });
  });

  it('of a real run names its programs and adds up to the time that was measured', async () => {
    const graph = new Graph();
    const x = graph.input('x', [64, 64], 'fp32');
    graph.scoped('layer', () => graph.output('y', exp(matmul(x, x))));
    const device = testDevice();
    const program = device.load(compile(graph, device.target));
    using y = device.allocate([64, 64], 'fp32');
    const entry = { program, slots: { y }, inputs: { x: new Float32Array(4096) } };
    const { instructions: measured } = await device.run([{ ...entry, name: 'first' }, entry], { profile: true });
    const trace = JSON.parse(JSON.stringify(chromeTrace(measured, { threads: 2 }))) as ReturnType<typeof chromeTrace>;
    const events = trace.traceEvents.filter(({ ph }) => ph === 'X');
    expect(events.map(({ name, cat }) => [name, cat])).toEqual([
      ['matmul', 'first'],
      ['exp', 'first'],
      ['matmul', 'program'],
      ['exp', 'program'],
    ]);
    const sum = measured.reduce((total, { ms }) => total + ms, 0);
    const last = events.at(-1);
    expect(((last?.ts ?? 0) + (last?.dur ?? 0)) / 1000).toBeCloseTo(sum, 6);
    expect(trace.otherData).toEqual({ threads: 2 });
  });
});
