// A run that is killed (SIGKILL) at random moments and resumed each time ends with the very bits of one that was not.
//
//   npm run accept -- kill-resume [kills=10] [seed=time]
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { areEqual, finished, firstStep, generator, isWriting, lastStep, start, until } from './support/killed-run.mjs';

const kills = Number(process.argv[2] ?? 10);
const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31);
const random = generator(seed);
const folder = mkdtempSync(join(tmpdir(), 'hadal-kill-'));
const steps = 300;
const begin = (name) => start(join(folder, name), { steps, checkpointEvery: 10 });

console.log(`kill-resume: ${kills} kills, seed ${seed}`);
const whole = await finished(begin('whole'));
const rows = [];
for (let i = 0; i < kills; i++) {
  const run = begin('killed');
  const moment = i === 0 ? 'starting' : i % 3 === 2 ? 'writing a checkpoint' : 'running';
  if (moment === 'starting') {
    const atMs = run.began + random() * 1000;
    await until(run, () => performance.now() > atMs);
  } else {
    // Some steps, then a part of a step.
    const more = Math.floor((random() * 1.8 * steps) / kills);
    await until(run, () => run.events.some(({ type }) => type === 'start'));
    await until(run, () => (lastStep(run) ?? 0) >= Math.min(firstStep(run) + more, steps - 20));
    const atMs = performance.now() + random() * 30;
    await until(run, () => performance.now() > atMs && (moment === 'running' || isWriting(run)));
  }
  run.child.kill('SIGKILL');
  const { signal } = await run.ended;
  rows.push({
    kill: i + 1,
    while: moment,
    'resumed at': firstStep(run),
    'killed after step': lastStep(run),
    signal,
    'half written': isWriting(run),
  });
}
const resumed = await finished(begin('killed'));
console.table(rows);

const equal = areEqual(whole, resumed);
const wasKilled = rows.filter(({ signal }) => signal === 'SIGKILL').length;
console.log(`${wasKilled} of ${kills} runs were killed; the last went on from step ${firstStep(resumed)}`);
rmSync(folder, { recursive: true });
if (!equal || wasKilled < kills) process.exitCode = 1;
