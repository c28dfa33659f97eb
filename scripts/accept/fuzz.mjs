// Damaged files of every kind that comes from strangers: no crash, no hang of more than a second, no file opened outside.
//
//   npm run accept -- fuzz [cases of each kind=100000] [first seed=1]
import { fuzz } from '../../test/fuzz/run.mjs';

const kinds = ['safetensors', 'gguf', 'tokenizer', 'config', 'parquet', 'csv'];
const [count = 100_000, seed = 1] = process.argv.slice(2).map(Number);
let faults = 0;
for (const kind of kinds) {
  const began = performance.now();
  const found = await fuzz(kind, { seed, count });
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  console.log(`${kind.padEnd(12)} ${count} cases, ${found.length} faults, ${seconds} s`);
  for (const { seed: at, what } of found) console.log(`  seed ${at}: ${what}`);
  faults += found.length;
}
console.log(`fuzz: ${faults === 0 ? 'passed' : 'failed'}`);
process.exitCode = faults === 0 ? 0 : 1;
