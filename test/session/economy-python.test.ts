// transformers opens models with shared and factorised weights as plain ones. Needs a Python with torch and transformers 5:
// HADAL_PYTHON, else python3.
import { execFile, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/formats/safetensors-writer.js';
import { goldenDir, readGolden, rowsOf } from '../goldens/golden.js';
import { economical, economies } from './economical.js';
import { withDirectory } from './model-copies.js';

const python = process.env.HADAL_PYTHON ?? 'python3';
const modules = '["torch", "transformers", "safetensors"]';
const hasTransformers =
  spawnSync(python, ['-c', `import importlib.util as u; assert all(map(u.find_spec, ${modules}))`]).status === 0;

const bytesOf = (data: NodeJS.TypedArray) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

describe(`transformers opens (skipped unless ${python} has transformers)`, () => {
  for (const name of Object.keys(economies)) {
    it.skipIf(!hasTransformers)(
      `${name} with shared and factorised weights, and computes the same`,
      { timeout: 180_000 },
      () =>
        withDirectory(async (dir) => {
          using session = (await economical(name)).session;
          await session.save(join(dir, 'saved'));
          const ids = rowsOf(await readGolden(name), 'input_ids');
          const { logits, shape } = await session.forward(ids);
          const expected = join(dir, 'expected.safetensors');
          const data = bytesOf(Int32Array.from(ids.flat()));
          await writeSafetensors(expected, [
            { name: 'input_ids', dtype: 'I32', shape: shape.slice(0, 2), data },
            { name: 'logits', dtype: 'F32', shape, data: bytesOf(logits) },
          ]);
          const { stdout } = await promisify(execFile)(python, [
            goldenDir('open_saved.py'),
            join(dir, 'saved'),
            expected,
          ]);
          const { missing, unexpected, rel_diff } = JSON.parse(stdout);
          expect(missing).toEqual([]);
          expect(
            unexpected.filter((tensor: string) => !/^model\.layers\.2\./.test(tensor) || !name.endsWith('mtp')),
          ).toEqual([]);
          expect(rel_diff).toBeLessThan(6e-6);
        }),
    );
  }
});
