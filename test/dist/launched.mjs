// A process of a run that trains nothing: counts steps together with the others. Words of the command line say what goes wrong.
//   --steps n        ends after so many
//   --fail r:s:how   rank r at step s, once: a status to end with, `kill`, `stop` (SIGSTOP), `throw`, `busy` (8 s); the file --once says it was
//   --until file     ends when it is there
//   --save           on SIGINT or SIGTERM, ends with 130 after a while
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { joinWorld } from '../../dist/dist/world.js';

const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '10' },
    fail: { type: 'string', multiple: true, default: [] },
    once: { type: 'string', default: '' },
    save: { type: 'boolean', default: false },
    early: { type: 'string' },
    busy: { type: 'string' },
    until: { type: 'string' },
  },
});
if (values.early) {
  process.stderr.write(`hadal: [config] field 'x' expected y, got z\n`);
  process.exit(Number(values.early));
}
let isStopping = false;
for (const signal of values.save ? ['SIGINT', 'SIGTERM'] : []) {
  process.on(signal, () => {
    isStopping = true;
  });
}

function failAt(rank, step) {
  for (const [i, fail] of values.fail.entries()) {
    const [ofRank, ofStep, how] = fail.split(':');
    const once = `${values.once}.${i}`;
    if (Number(ofRank) !== rank || step < Number(ofStep) || (values.once && existsSync(once))) continue;
    if (values.once) writeFileSync(once, '');
    if (how === 'kill' || how === 'stop') process.kill(process.pid, how === 'kill' ? 'SIGKILL' : 'SIGSTOP');
    else if (how === 'throw') throw new Error('as it was told to');
    else if (how === 'busy') for (const end = performance.now() + 8000; performance.now() < end; );
    else process.exit(Number(how));
  }
}

let world = await joinWorld({ timeout: 20 });
let step = -1;
console.log(`joined ${world?.rank}/${world?.size} local ${world?.localRank}/${world?.localSize} pid ${process.pid}`);
try {
  for (;;) {
    try {
      const steps = await world.gather('steps', step);
      step = Math.max(0, ...steps);
      console.log(`round ${world.round} rank ${world.rank} of ${world.size} from ${step}, had ${steps}`);
      while (step < Number(values.steps)) {
        failAt(world.rank, step);
        if (values.busy) for (const end = performance.now() + Number(values.busy); performance.now() < end; );
        const stops = await world.gather('step', isStopping);
        step++;
        const ends = await world.gather('end', values.until !== undefined && existsSync(values.until));
        if (ends.some(Boolean)) break;
        if (stops.some(Boolean)) {
          await sleep(100);
          console.log('saved');
          process.exitCode = 130;
          break;
        }
        await sleep(20);
      }
      break;
    } catch (error) {
      if (error.code !== 'HADAL_ERR_COMM') throw error;
      console.log(`over: ${error.message}`);
      world = await world.nextRound(step);
    }
  }
  console.log(`done at ${step} of ${world.size}`);
} finally {
  await world[Symbol.asyncDispose]();
}
