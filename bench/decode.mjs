// Times decoding with the latent and the expanded cache, in turns, on random weights: tokens a second of all rows together.
//
//   npm run bench:decode -- [config.json] [contexts=64,512,1900] [rows=1,4,8]
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { CachedDecoder } from '../dist/generate/decoder.js';
import { modelFromConfig } from '../dist/models/families.js';
import { parametersOf } from '../dist/models/model.js';
import { compile } from '../dist/runtime/compile.js';
import { openDevice } from '../dist/runtime/device.js';
import { Session } from '../dist/session/session.js';
import { traceInitialization } from '../dist/train/initialization.js';

const [file = 'bench/peers/deepseek-14m.json', contexts = '64,512,1900', rows = '1,4,8'] = process.argv.slice(2);
const model = modelFromConfig(JSON.parse(readFileSync(file, 'utf8')), file);
const device = openDevice('auto');
const tensors = new Map(
  [...parametersOf(model)].map(([name, { shape, dtype }]) => [name, device.allocate(shape, dtype)]),
);
const initialization = device.load(compile(traceInitialization(model), device.threads));
const inputs = { key: Int32Array.of(1, 2) };
await device.run([{ program: initialization, slots: Object.fromEntries(tensors), inputs }]);
const session = new Session({ model, tensors, device, tokenizer: null });

const likeliest = (logits) => logits.reduce((best, logit, id) => (logit > logits[best] ? id : best), 0);

/** Milliseconds of a step, for each of some steps behind a context. */
async function stepTimes(count, context, cache) {
  const decoder = new CachedDecoder(session, { rows: count, positions: context + 40, cache });
  const prompt = Array.from({ length: context }, (_, i) => (i * 7919 + 13) % model.vocabSize);
  let logits = await decoder.feed(Array.from({ length: count }, () => prompt));
  const times = [];
  for (let i = 0; i < 36; i++) {
    const began = performance.now();
    logits = await decoder.feed(logits.map((row) => [likeliest(row)]));
    times.push(performance.now() - began);
  }
  decoder[Symbol.dispose]();
  return times.slice(4);
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
console.log(`${file}, ${device.threads} threads, ${os.cpus()[0]?.model}, load ${os.loadavg()[0]?.toFixed(1)}`);
console.log('rows  context  expanded tokens/s  latent tokens/s  ratio');
for (const count of rows.split(',').map(Number)) {
  for (const context of contexts.split(',').map(Number)) {
    const times = { expanded: [], latent: [] };
    for (let round = 0; round < 3; round++)
      for (const cache of ['expanded', 'latent']) times[cache].push(...(await stepTimes(count, context, cache)));
    const [expanded, latent] = ['expanded', 'latent'].map((cache) => (1000 * count) / median(times[cache]));
    const cells = [count, context, expanded.toFixed(0), latent.toFixed(0), (latent / expanded).toFixed(2)];
    console.log(cells.map((cell, i) => String(cell).padStart([4, 9, 19, 17, 7][i])).join(''));
  }
}
device.dispose();
