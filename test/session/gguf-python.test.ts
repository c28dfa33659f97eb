// transformers reads the GGUF file that hadal reads, and what hadal saved it as. Needs a Python with torch, transformers 5
// and gguf: HADAL_PYTHON, else python3.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { fromFloat32 } from '../../src/formats/convert.js';
import { writeSafetensors } from '../../src/formats/safetensors-writer.js';
import { openSession } from '../../src/session/session.js';
import { gguf } from '../formats/write-gguf.js';
import { ggufParts } from './gguf-models.js';
import { withDirectory } from './model-copies.js';

const python = process.env.HADAL_PYTHON ?? 'python3';
const hasPython =
  spawnSync(python, [
    '-c',
    'import importlib.util as u; assert all(map(u.find_spec, ["torch", "transformers", "safetensors", "gguf"]))',
  ]).status === 0;
const script = fileURLToPath(new URL('./open_gguf.py', import.meta.url));
const run = async (...args: string[]) => (await promisify(execFile)(python, [script, ...args])).stdout;

/** What transformers makes of a file, and of what hadal saves it as, beside hadal's own logits and ids. */
async function expectSame(dir: string, path: string, ids: number[], texts: string[]): Promise<void> {
  const [saved, expected, textsFile] = [join(dir, 'saved'), join(dir, 'y.safetensors'), join(dir, 'z.json')];
  using session = await openSession(path, { device: 'cpu', threads: 1 });
  await session.save(saved);
  const { logits, shape } = await session.forward([ids]);
  await writeSafetensors(expected, [
    { name: 'input_ids', dtype: 'I32', shape: [1, ids.length], data: new Uint8Array(Int32Array.from(ids).buffer) },
    { name: 'logits', dtype: 'F32', shape, data: fromFloat32('F32', logits) },
  ]);
  await writeFile(textsFile, JSON.stringify(texts));
  const found = JSON.parse(await run('compare', path, saved, expected, textsFile)) as {
    missing: string[];
    unexpected: string[];
    differing: string[];
    rel_diff: number;
    ids: number[][];
  };
  expect(found).toMatchObject({ missing: [], unexpected: [], differing: [] });
  expect(found.rel_diff).toBeLessThan(3e-6);
  for (const [i, text] of texts.entries())
    expect(found.ids[i], text).toEqual([1, ...((await session.tokenizer?.encode(text)) ?? [])]);
}

describe(`transformers reads (skipped unless ${python} has transformers and gguf)`, () => {
  const stories = fileURLToPath(new URL('../../../shared/data/stories260K.gguf', import.meta.url));
  const texts = ['Once upon a time', ' two  spaces', 'héllo 世界 🦙', '', '<s> not bos'];
  const storyIds = [1, 403, 407, 261, 378, 432, 383, 286, 261];

  it.skipIf(!hasPython || !existsSync(stories)).each(['F32', 'F16', 'Q8_0', 'Q4_0'])(
    'stories260K as %s (skipped without shared data)',
    { timeout: 180_000 },
    (type) =>
      withDirectory(async (dir) => {
        const file = join(dir, 'x.gguf');
        if (type !== 'F32') await run('quantize', stories, file, type);
        await expectSame(dir, type === 'F32' ? stories : file, storyIds, texts);
      }),
  );

  it.skipIf(!hasPython).each(['qwen2', 'llama_biases'])('%s', { timeout: 180_000 }, (name) =>
    withDirectory(async (dir) => {
      const file = join(dir, 'x.gguf');
      const { entries, tensors } = await ggufParts(name);
      await writeFile(file, gguf(entries, tensors));
      await expectSame(dir, file, [1, 2, 3, 5, 8, 13, 21], []);
    }),
  );
});
