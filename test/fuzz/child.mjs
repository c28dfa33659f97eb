// Runs cases of one target: `child.mjs <target> <folder> <first seed> <count>`. Writes each seed to descriptor 3 before its
// case, so that whoever started it knows what it ended over, and a line of JSON for each finding to stdout.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import path from 'node:path';
import { HadalError } from '../../dist/core/errors.js';
import { random } from './mutate.mjs';
import { targets } from './targets.mjs';

const [name, folder, first, count] = process.argv.slice(2);
const slowMs = 1000;
const found = (seed, what) => process.stdout.write(`${JSON.stringify({ target: name, seed, what })}\n`);

let seed = Number(first);
const openers = [
  'open',
  'readFile',
  'writeFile',
  'rename',
  'rm',
  'unlink',
  'mkdir',
  'createReadStream',
  'createWriteStream',
];
const watched = [fs, fs.promises].flatMap((module) =>
  openers.flatMap((key) => [
    [module, key],
    [module, `${key}Sync`],
  ]),
);
for (const [module, key] of watched) {
  const original = module[key];
  if (original === undefined) continue;
  module[key] = function (target, ...rest) {
    const isInside =
      typeof target !== 'string' || `${path.resolve(target)}${path.sep}`.startsWith(`${folder}${path.sep}`);
    if (!isInside) found(seed, `${key} ${target}`);
    return original.call(this, target, ...rest);
  };
}
syncBuiltinESMExports();

async function runCase(target) {
  const began = performance.now();
  try {
    await target(random(seed), folder, seed);
  } catch (error) {
    if (!(error instanceof HadalError) || error.code === 'HADAL_ERR_INTERNAL')
      found(seed, String(error?.stack ?? error).slice(0, 400));
  }
  return performance.now() - began;
}

for (let i = 0; i < Number(count); i++, seed++) {
  fs.writeSync(3, `${seed}\n`);
  for (const entry of fs.readdirSync(folder)) fs.rmSync(path.join(folder, entry), { recursive: true });
  let ms = await runCase(targets[name]);
  // A busy machine is slow now and then; what is slow three times is slow.
  for (let tries = 0; ms > slowMs && tries < 2; tries++) ms = Math.min(ms, await runCase(targets[name]));
  if (ms > slowMs) found(seed, `took ${ms.toFixed(0)} ms`);
}
