// Preset `shallow`, as `npm run train` has it, learns real English: less than five minutes of training, and a held-out
// loss far below what the frequencies of single tokens would give.
//
//   npm run accept -- shallow [threads=2]
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { shallow } from '../../dist/cli/presets/shallow.js';
import { train } from '../../dist/train/train.js';

const threads = Number(process.argv[2] ?? 2);
const mostSeconds = 300;
/** Nats a token. The frequencies of single tokens, which fifty steps learn, give about two. */
const leastGain = 3.5;
const folder = mkdtempSync(join(tmpdir(), 'hadal-shallow-'));
const preset = shallow();
const config = { ...preset, data: { ...preset.data, cache: join(folder, 'data') }, out: join(folder, 'run'), threads };

console.log(
  `shallow on ${threads} of ${cpus().length} processors (${cpus()[0]?.model}), load ${loadavg()[0]?.toFixed(1)}`,
);
const began = performance.now();
let trainedFrom = began;
/** @type {import('../../dist/train/events.js').EndEvent | undefined} */
let end;
for await (const event of train(config)) {
  const seconds = ((performance.now() - began) / 1000).toFixed(0).padStart(4);
  if (event.type === 'start') {
    trainedFrom = performance.now();
    const { parameters, activeParameters, trainTokens, heldOutTokens } = event;
    console.log(
      `${seconds} s  ${parameters} parameters, ${activeParameters} active; ${trainTokens} tokens, ${heldOutTokens} held out`,
    );
  } else if (event.type === 'evaluation') {
    const { step, evalLoss, bitsPerByte } = event;
    console.log(
      `${seconds} s  step ${step}: held-out loss ${evalLoss.toFixed(3)}, ${bitsPerByte.toFixed(3)} bits per byte`,
    );
  } else if (event.type === 'step' && event.step % 50 === 0) {
    const { step, loss, tokensPerSecond, expertImbalance } = event;
    console.log(
      `${seconds} s  step ${step}: loss ${loss.toFixed(3)}, ${tokensPerSecond.toFixed(0)} tokens/s, imbalance ${expertImbalance?.toFixed(2)}`,
    );
  } else if (event.type === 'end') end = event;
}
rmSync(folder, { recursive: true });

const seconds = (performance.now() - trainedFrom) / 1000;
if (end?.initialEvalLoss == null) throw new Error('the run did not end');
const gain = end.initialEvalLoss - end.evalLoss;
const checks = [
  [`training took ${seconds.toFixed(0)} s, at most ${mostSeconds} s`, seconds <= mostSeconds],
  [`the held-out loss fell by ${gain.toFixed(2)} nats a token, at least ${leastGain}`, gain >= leastGain],
  [`no update was skipped (${end.skippedSteps})`, end.skippedSteps === 0],
];
for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
