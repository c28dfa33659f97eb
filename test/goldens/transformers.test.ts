// transformers opens what hadal saved. Needs a Python with torch and transformers 5: HADAL_PYTHON, else python3.
import { execFile, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { saveModelDirectory } from '../../src/session/model-directory.js';
import { openModel } from '../../src/session/session.js';
import { withDirectory } from '../session/model-copies.js';
import { goldenDir } from './golden.js';

const python = process.env.HADAL_PYTHON ?? 'python3';
const hasTransformers =
  spawnSync(python, [
    '-c',
    'import importlib.util as u; assert all(map(u.find_spec, ["torch", "transformers", "safetensors"]))',
  ]).status === 0;

interface Opened {
  missing: string[];
  unexpected?: string[];
  rel_diff: number;
}

async function open(script: string, dir: string, golden: string): Promise<Opened> {
  const expected = join(goldenDir(golden), 'golden.safetensors');
  const { stdout } = await promisify(execFile)(python, [goldenDir(script), dir, expected]);
  return JSON.parse(stdout) as Opened;
}

/** fp32 of transformers against float64 of transformers. */
const bar = 3e-6;

describe(`transformers opens (skipped unless ${python} has transformers)`, () => {
  const cases = [
    'deepseek_v3_half_rope',
    'deepseek_v3_yarn',
    'deepseek_v3_mtp',
    'deepseek_v2',
    'deepseek_v2_group',
    'gpt2',
    'llama',
    'llama_llama3_rope',
    'llama_biases',
    'qwen2',
    'qwen2_yarn',
    'mistral',
  ];
  for (const name of cases) {
    it.skipIf(!hasTransformers)(name, { timeout: 180_000 }, () =>
      withDirectory(async (dir) => {
        const saved = join(dir, 'saved');
        const { model, tensors, device } = await openModel(goldenDir(name), { device: 'cpu', threads: 1 });
        await saveModelDirectory(saved, model, tensors, name === 'deepseek_v2' ? { maxShardBytes: 30_000 } : {});
        device.dispose();
        const { missing, unexpected = [], rel_diff } = await open('open_saved.py', saved, name);
        expect(missing).toEqual([]);
        expect(rel_diff).toBeLessThan(bar);
        if (name !== 'deepseek_v3_mtp') return expect(unexpected).toEqual([]);
        expect(unexpected.filter((tensor) => !tensor.startsWith('model.layers.2.'))).toEqual([]);
        const module = await open('open_mtp.py', saved, name);
        expect(module.missing).toEqual([]);
        expect(module.rel_diff).toBeLessThan(bar);
      }),
    );
  }
});
