// HADAL_DEBUG: 1 says what was compiled, 3 prints graphs; a profile's table is what level 2 shows.
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { add, exp } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { compile } from '../../src/runtime/compile.js';
import { profileTable } from '../../src/runtime/profile.js';
import { testDevice } from '../support/op-case.js';

function graphOfTwo(): Graph {
  const graph = new Graph();
  const x = graph.input('x', [64, 64], 'fp32');
  graph.scoped('layer', () => graph.output('y', exp(add(matmul(x, matmul(x, x)), 1))));
  return graph;
}

function stderrOf(level: string): string {
  vi.stubEnv('HADAL_DEBUG', level);
  const written: string[] = [];
  const spy = vi.spyOn(process.stderr, 'write').mockImplementation((text) => Boolean(written.push(String(text))));
  compile(graphOfTwo(), 2);
  spy.mockRestore();
  return written.join('');
}

afterEach(() => void vi.unstubAllEnvs());

describe('HADAL_DEBUG', () => {
  it('0 says nothing', () => expect(stderrOf('0')).toBe(''));

  it('1 says what was compiled', () => {
    expect(stderrOf('1')).toMatch(/^\[hadal\] compiled 6 nodes to 3 instructions, arena [\d.]+ MiB, in \d+ ms\n$/);
  });

  it('3 prints the graph after each pass', () => {
    const text = stderrOf('3');
    expect(text).toMatch(/--- after prune\n%0: fp32 \[64, 64\] = input\(\)/);
    expect(text).toMatch(/--- after fuse-elementwise\n[\s\S]*= fused-elementwise\(%\d, %\d\).*# layer\noutput y = %\d/);
  });
});

describe('a profile', () => {
  it('has a time for every instruction, and a table of shares', async () => {
    const device = testDevice();
    const program = device.load(compile(graphOfTwo(), device.target));
    using y = device.allocate([64, 64], 'fp32');
    const run = async (profile: boolean) =>
      (await device.run([{ program, slots: { y }, inputs: { x: new Float32Array(4096) } }], { profile })).instructions;
    expect(await run(false)).toEqual([]);
    const times = await run(true);
    expect(times.map(({ op, scope }) => [op, scope])).toEqual([
      ['matmul', 'layer'],
      ['matmul', 'layer'],
      ['fused-elementwise', 'layer'],
    ]);
    const row = {
      ...({ scope: '', kernel: '', queue: 'compute', program: 'whole' } as const),
      ...{ flops: 4e6, bytesRead: 1e6, bytesWritten: 1e6 },
    };
    const table = profileTable([
      { ...row, op: 'small', ms: 1 },
      { ...row, op: 'matmul', ms: 2 },
      { ...row, op: 'matmul', ms: 1 },
    ]);
    expect(table.split('\n').map((line) => line.trim().split(/\s{2,}/))).toEqual([
      ['op', 'calls', 'ms', 'share', 'GFLOP/s', 'GB/s'],
      ['matmul', '2', '3.00', '75.0 %', '2.7', '1.3'],
      ['small', '1', '1.00', '25.0 %', '4.0', '2.0'],
      ['total', '3', '4.00'],
    ]);
    expect(profileTable(times)).toMatch(/^op .*\n(matmul|fused)/);
  });
});
