// Commands that measure between real processes, which they start themselves. They run the compiled files.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8', timeout: 50_000 });
}

it('bench comm measures collectives and compressions, and says what pays', () => {
  const { status, stdout, stderr } = run(
    'bench',
    'comm',
    '--nproc',
    '2',
    '--sizes',
    '64K',
    '--link',
    '1Gbit',
    '--json',
  );
  expect(stderr).not.toContain('hadal:');
  expect(status).toBe(0);
  const report = JSON.parse(stdout);
  expect(report).toMatchObject({ ranks: 2, threads: 1, link: { bitsPerSecond: 1e9 } });
  const sent = Object.fromEntries(
    report.collectives.map((each: { collective: string; sentBytes: number }) => [each.collective, each.sentBytes]),
  );
  // A ring of two: half there, half back; rank 0 is the root of the broadcast.
  for (const [collective, parts] of [
    ['all-reduce', 1],
    ['reduce-scatter', 0.5],
    ['all-gather', 0.5],
    ['all-to-all', 0.5],
    ['broadcast', 1],
  ] as const) {
    // biome-ignore format: a table
    expect(sent[collective] / 65_536 / parts, collective).toBeGreaterThanOrEqual(1);
    expect(sent[collective] / 65_536 / parts, collective).toBeLessThan(1.1);
  }
  const kinds = report.compressions as { kind: string; sentBytes: number; computeMs: number; error: number }[];
  expect(kinds.map(({ kind }) => kind)).toEqual(['none', 'fp16', 'bf16', 'int8', 'topk', 'powersgd']);
  const share = (kind: string) => (kinds.find((each) => each.kind === kind)?.sentBytes as number) / 65_536;
  expect(share('fp16')).toBeLessThan(0.52);
  expect(share('int8')).toBeLessThan(0.28);
  expect(share('topk')).toBeLessThan(0.03);
  const [none, ...others] = kinds;
  expect(none?.error).toBe(0);
  for (const { computeMs, error } of others) {
    expect(computeMs).toBeGreaterThan(0);
    expect(error).toBeGreaterThan(0);
  }
  expect(report.link.times).toHaveLength(6);
});

it('doctor --comm measures every pair and says what belongs in a box', () => {
  const { status, stdout, stderr } = run('doctor', '--comm', '--nproc', '3', '--json');
  expect(stderr).not.toContain('hadal:');
  expect(status).toBe(0);
  const findings = JSON.parse(stdout);
  expect(findings.boxes).toEqual([[0, 1, 2]]);
  for (const a of [0, 1, 2]) {
    for (const b of [0, 1, 2]) {
      if (a === b) continue;
      expect(findings.latencyUs[a][b]).toBeGreaterThan(0);
      expect(findings.bandwidth[a][b]).toBeGreaterThan(0);
    }
  }
  expect(findings.axes.map(({ axis }: { axis: string }) => axis)).toEqual(['tp', 'ep', 'pp', 'dp']);
  expect(findings.hierarchy).toEqual({ isUsed: false, paysFrom: null });
});

it('one process alone is told how to be several', () => {
  const { status, stderr } = run('doctor', '--comm');
  expect(status).toBe(2);
  expect(stderr).toContain(
    'expected several processes, got one; start them by hadal launch --nproc 2 -- doctor --comm',
  );
});
