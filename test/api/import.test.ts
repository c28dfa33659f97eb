import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { workerUrl } from '../../src/core/worker-url.js';

// The best of several, in processor time: what else the machine does is not hadal's cost.
test('importing hadal takes less than 80 ms and loads neither addon nor packages', () => {
  const index = workerUrl(import.meta.url, '../../src/index.js').href;
  const script = `
    const before = process.cpuUsage();
    await import(${JSON.stringify(index)});
    const { user, system } = process.cpuUsage(before);
    const shared = process.report.getReport().sharedObjects.filter((name) => name.endsWith('.node'));
    console.log(JSON.stringify({ ms: (user + system) / 1000, shared }));`;
  const runs = Array.from({ length: 3 }, () => {
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    return JSON.parse(output) as { ms: number; shared: string[] };
  });
  expect(runs.flatMap(({ shared }) => shared)).toEqual([]);
  expect(Math.min(...runs.map(({ ms }) => ms))).toBeLessThan(80);
});
