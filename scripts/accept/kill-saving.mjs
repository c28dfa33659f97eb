// A run that is killed (SIGKILL) at random moments of saving finds a whole checkpoint each time, the newest there is, and
// ends with the very bits of one that was not killed.
//
//   npm run accept -- kill-saving [kills=100] [seed=time]
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import {
  areEqual,
  checkpointsOf,
  finished,
  firstStep,
  generator,
  isWhole,
  isWriting,
  newest,
  start,
  until,
} from './support/killed-run.mjs';

const { verifyManifest } = await import('../../dist/formats/manifest.js');

const kills = Number(process.argv[2] ?? 100);
const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31);
const random = generator(seed);
const folder = mkdtempSync(join(tmpdir(), 'hadal-kill-'));
// Saved after every other step: something is being saved nearly always.
const options = { steps: 7 * kills + 20, checkpointEvery: 2 };
const begin = (name) => start(join(folder, name), options, ['checkpoint.keep=3', 'checkpoint.best=1']);

/** What a killed process has left of the checkpoint it was writing. */
function leftOf(run) {
  const unfinished = checkpointsOf(run).find((name) => name.includes('.tmp-'));
  if (!unfinished) return 'nothing';
  if (unfinished.endsWith('.tmp-removed')) return 'an old one, half removed';
  const files = readdirSync(join(run.out, 'checkpoints', unfinished));
  const writing = files.find((name) => name.includes('.tmp-'));
  if (writing) return `a part of ${writing.slice(0, writing.indexOf('.tmp-'))}`;
  return files.includes('manifest.json') ? 'all, not yet renamed' : `${files.length} files`;
}

console.log(`kill-saving: ${kills} kills, seed ${seed}`);
const whole = await finished(begin('whole'));
const left = new Map();
const problems = [];
let expectedStep = 0;
for (let i = 1; i <= kills; i++) {
  const run = begin('killed');
  await until(run, () => run.events.some(({ type }) => type === 'start'));
  const { step: startStep, notes = [] } = run.events.find(({ type }) => type === 'start') ?? {};
  // Some checkpoints more, so that the run comes forward; then a moment within the writing of one.
  const more = 1 + Math.floor(random() * 3);
  await until(run, () => run.events.filter(({ type }) => type === 'checkpoint').length >= more);
  await until(run, () => isWriting(run));
  const atMs = performance.now() + random() * 60;
  await until(run, () => performance.now() > atMs);
  run.child.kill('SIGKILL');
  const { signal } = await run.ended;
  const state = leftOf(run);
  left.set(state, (left.get(state) ?? 0) + 1);
  if (signal !== 'SIGKILL') problems.push(`kill ${i}: the run had ended: ${run.output}`);
  if (startStep !== expectedStep) problems.push(`kill ${i}: went on from step ${startStep}, not ${expectedStep}`);
  if (notes.length > 0) problems.push(`kill ${i}: ${notes.join('; ')}`);
  for (const name of checkpointsOf(run).filter(isWhole)) {
    await verifyManifest(join(run.out, 'checkpoints', name)).catch((error) =>
      problems.push(`kill ${i}: ${error.message}`),
    );
  }
  expectedStep = Number(basename(newest(run)).slice('step-'.length));
}
const resumed = await finished(begin('killed'));
if (firstStep(resumed) !== expectedStep) problems.push(`the last went on from ${firstStep(resumed)}`);
console.table([...left].sort((a, b) => b[1] - a[1]).map(([state, times]) => ({ 'the kill left': state, times })));

const equal = areEqual(whole, resumed);
const kept = [whole, resumed].map((run) => checkpointsOf(run).join(' '));
const isTidy = kept[0] === kept[1] && !isWriting(resumed);
if (!isTidy) problems.push(`checkpoints: ${kept.join(', expected as of: ')}`);
for (const problem of problems) console.log(`PROBLEM ${problem}`);
const amidst = kills - (left.get('nothing') ?? 0);
console.log(
  `${kills} kills, ${amidst} of them amidst a save; the last went on from step ${firstStep(resumed)} of ${options.steps}`,
);
rmSync(folder, { recursive: true });
// Most must have hit, or nothing is shown.
if (!equal || problems.length > 0 || amidst < kills / 2) process.exitCode = 1;
