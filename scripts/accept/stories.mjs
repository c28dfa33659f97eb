// The real checkpoint stories260K.gguf opens, tells its published story, and learns another language of text: a few hundred
// updates lower the held-out loss. What comes out opens again as a directory, with equal logits.
//
//   npm run accept -- stories [steps=300] [threads=2]
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel } from '../../dist/generate/loaded-model.js';
import { train } from '../../dist/train/train.js';

const [steps = 300, threads = 2] = process.argv.slice(2).map(Number);
const shared = new URL('../../../shared/data/', import.meta.url).pathname;
const [gguf, corpus] = [join(shared, 'stories260K.gguf'), join(shared, 'corpus-en-small.jsonl.gz')];
const published =
  'Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.';
/** Nats a token that the held-out loss falls at least. */
const leastGain = 0.8;

for (const path of [gguf, corpus]) {
  if (existsSync(path)) continue;
  console.error(`stories: expected ${path}, which is not there; nothing was tried`);
  process.exit(2);
}

/**
 * What a model tells, and its logits after the first words; saves it too where a directory is given.
 *
 * @param {string} path
 * @param {string} [saveTo]
 */
async function told(path, saveTo) {
  const model = await loadModel(path, { threads });
  try {
    const { text } = await model.generateText('', { maxTokens: 120, temperature: 0 });
    const { logits } = await model.forward([[1, 403, 407, 261, 378]]);
    if (saveTo) await model.save(saveTo);
    return { text, logits: Buffer.from(logits.buffer) };
  } finally {
    model.dispose();
  }
}

const folder = mkdtempSync(join(tmpdir(), 'hadal-stories-'));
const saved = join(folder, 'saved');
const story = await told(gguf, saved);
console.log(story.text);
const again = await told(saved);

/** @type {import('../../dist/train/events.js').EndEvent | undefined} */
let end;
const config = {
  model: { directory: gguf },
  data: { sources: [corpus], cache: join(folder, 'data') },
  out: join(folder, 'run'),
  steps,
  batch: 8,
  seqLen: 256,
  optimizer: { lr: 2e-3 },
  evaluation: { every: 100 },
  threads,
};
for await (const event of train(config)) {
  if (event.type === 'evaluation')
    console.log(
      `step ${event.step}: held-out loss ${event.evalLoss.toFixed(4)}, ${event.bitsPerByte.toFixed(4)} bits per byte`,
    );
  else if (event.type === 'end') end = event;
}
if (end?.initialEvalLoss == null) throw new Error('the run did not end');
const tuned = await told(end.checkpoint);
console.log(tuned.text);
rmSync(folder, { recursive: true });

const gain = end.initialEvalLoss - end.evalLoss;
const checks = [
  ['the greedy text is the published story', story.text.startsWith(published)],
  ['saved as a directory it tells the same', again.text === story.text],
  ['saved as a directory it has the same logits', again.logits.equals(story.logits)],
  [
    `${steps} updates lower the held-out loss by ${gain.toFixed(3)} nats a token, at least ${leastGain}`,
    gain >= leastGain,
  ],
  ['the tuned model tells something else', tuned.text !== story.text && tuned.text.length > 0],
];
for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
