// How soon `hadal train` of a preset begins its first step when its data are prepared, and what importing hadal costs.
//
//   npm run accept -- startup [preset=shallow] [runs=5] [most seconds=2]
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const [preset = 'shallow', runs = '5', most = '2'] = process.argv.slice(2);
const [mostMs, mostImportMs] = [1000 * Number(most), 80];
const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const index = new URL('../../dist/index.js', import.meta.url).href;
const folder = mkdtempSync(join(tmpdir(), 'hadal-startup-'));

/** Milliseconds from the command to the first step's begin, and to the events before it. */
async function firstStep() {
  const out = join(folder, 'run');
  rmSync(out, { recursive: true, force: true });
  const flags = ['--preset', preset, '--out', out, '--set', `data.cache=${join(folder, 'data')}`, '--json'];
  const began = performance.now();
  const child = spawn(process.execPath, [cli, 'train', ...flags], { stdio: ['ignore', 'pipe', 'ignore'] });
  /** @type {Record<string, number>} */
  const times = {};
  for await (const line of createInterface({ input: child.stdout })) {
    const { type, phase, stepMs } = JSON.parse(line);
    const ms = performance.now() - began;
    if (type !== 'step') {
      times[phase ?? type] ??= ms;
      continue;
    }
    child.kill('SIGKILL');
    await once(child, 'exit');
    return { ...times, step: ms - stepMs };
  }
  throw new Error(`hadal train ended before its first step, with ${child.exitCode}`);
}

/** Milliseconds of `import 'hadal'`. */
function importTime() {
  const script = `const began = performance.now(); await import(${JSON.stringify(index)}); console.log(performance.now() - began)`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  return Number(stdout);
}

/** @param {number[]} values */
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

try {
  console.log(`preset ${preset}, load ${loadavg()[0]?.toFixed(1)}`);
  await firstStep(); // prepares the data
  const starts = [];
  for (let i = 0; i < Number(runs); i++) {
    const times = await firstStep();
    const shown = Object.entries(times).map(([name, ms]) => `${name} ${(ms / 1000).toFixed(2)}`);
    console.log(`run ${i + 1}, seconds until: ${shown.join(', ')}`);
    starts.push(times.step);
  }
  const imports = Array.from({ length: Number(runs) }, importTime);
  const [startMs, importMs] = [median(starts), median(imports)];
  const checks = [
    [`the first step begins after ${(startMs / 1000).toFixed(2)} s, at most ${mostMs / 1000} s`, startMs <= mostMs],
    [`import 'hadal' takes ${importMs.toFixed(0)} ms, less than ${mostImportMs} ms`, importMs < mostImportMs],
  ];
  for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
  if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
