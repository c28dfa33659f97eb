// The small twin of `npm run accept -- fuzz`.
import { expect, test } from 'vitest';
import { fuzz } from './run.mjs';

test.each(['safetensors', 'gguf', 'tokenizer', 'config', 'parquet', 'csv'])(
  'damaged files (%s) are read or refused: no crash, no hang, no other error, nothing opened elsewhere',
  async (target) => {
    const seed = Number(process.env.HADAL_FUZZ_SEED ?? 1);
    expect(await fuzz(target, { seed, count: 400 })).toEqual([]);
  },
);

test('planted faults are noticed, each with its seed', async () => {
  const found = await fuzz('planted', { seed: 0, count: 6 });
  const kinds = [
    /^TypeError: planted/,
    /^readFileSync /,
    /^openSync /,
    /^Error: ENOENT/,
    /^took \d+ ms/,
    /ended: SIGABRT/,
  ];
  expect(found.map(({ seed }) => seed)).toEqual([1, 2, 2, 2, 3, 4]);
  for (const [i, { what }] of found.entries()) expect(what).toMatch(kinds[i] as RegExp);
});
