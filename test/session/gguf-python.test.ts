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
import { withDirectory } from './model-copies.js';

const python = process.env.HADAL_PYTHON ?? 'python3';
const hasPython =
  spawnSync(python, [
    '-c',
    'import importlib.util as u; assert all(map(u.find_spec, ["torch", "transformers", "safetensors", "gguf"]))',
  ]).status === 0;
const stories = fileURLToPath(new URL('../../../shared/data/stories260K.gguf', import.meta.url));
const script = fileURLToPath(new URL('./open_gguf.py', import.meta.url));
const run = async (...args: string[]) => (await promisify(execFile)(python, [script, ...args])).stdout;

const texts = ['Once upon a time', ' two  spaces', 'héllo 世界 🦙', '', '<s> not bos'];

describe(`stories260K in transformers (skipped unless ${python} has transformers and gguf, and without shared data)`, () => {
  const skip = !hasPython || !existsSync(stories);
  it.skipIf(skip).each(['F32', 'Q8_0', 'Q4_0', 'F16'])('as %s', { timeout: 180_000 }, (type) =>
    withDirectory(async (dir) => {
      const [file, saved, expected, textsFile] = ['x.gguf', 'saved', 'y.safetensors', 'z.json'].map((name) =>
        join(dir, name),
      ) as [string, string, string, string];
      if (type !== 'F32') await run('quantize', stories, file, type);
      const path = type === 'F32' ? stories : file;
      using session = await openSession(path, { device: 'cpu', threads: 1 });
      await session.save(saved);
      const ids = [1, ...((await session.tokenizer?.encode('Once upon a time, there was a little girl')) ?? [])];
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
    }),
  );
});
