// Models with shared and factorised weights on disk: what is written, who can read it, what is refused.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { writeTensorDirectory } from '../../src/formats/safetensors-writer.js';
import { CachedDecoder } from '../../src/generate/decoder.js';
import { readFloats } from '../../src/session/model-directory.js';
import { openSession } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';
import { relativeNorm } from '../support/compare.js';
import { economical, economies } from './economical.js';
import { withDirectory } from './model-copies.js';

const rows = [
  [1, 5, 9, 2, 6],
  [7, 3, 8],
];

describe.each(Object.keys(economies))('%s', (name) => {
  it('comes back bit for bit from a directory that has all tensors whole', () =>
    withDirectory(async (dir) => {
      const { session, notes } = await economical(name);
      using saved = session;
      expect(notes.join('\n')).toMatch(
        /tensors that differed.*: \d+; their means keep \d+\.\d\d %(.|\n)*products of low rank: \d+; they keep \d+\.\d\d %/,
      );
      const path = join(dir, 'saved');
      await saved.save(path);
      using opened = await openSession(path, { device: 'cpu', threads: 2 });
      expect(opened.config).toEqual(saved.config);
      for (const [key, tensor] of saved.tensors)
        expect(await opened.tensors.get(key)?.toFloat32(), key).toEqual(await tensor.toFloat32());
      expect(await opened.forward(rows)).toEqual(await saved.forward(rows));

      // Whoever knows nothing of it finds a plain model, that computes the same.
      const plain = join(dir, 'plain');
      await saved.save(plain);
      rmSync(join(plain, 'factors.safetensors'));
      edit(plain, ({ hadal: _, ...config }) => config);
      using other = await openSession(plain, { device: 'cpu', threads: 2 });
      expect(other.tensors.size).not.toBe(saved.tensors.size);
      expect(relativeNorm((await other.forward(rows)).logits, (await saved.forward(rows)).logits)).toBeLessThan(2e-6);

      // Without the files of factors they are found anew.
      rmSync(join(path, 'factors.safetensors'));
      using again = await openSession(path, { device: 'cpu', threads: 2 });
      expect(relativeNorm((await again.forward(rows)).logits, (await saved.forward(rows)).logits)).toBeLessThan(1e-5);
    }));

  it('decodes as it computes', async () => {
    using session = (await economical(name)).session;
    const [prompt = []] = rows;
    using decoder = new CachedDecoder(session, { rows: 1, positions: 16 });
    await decoder.feed([prompt.slice(0, 3)]);
    const [stepped] = await decoder.feed([prompt.slice(3)]);
    const { logits } = await session.forward([prompt]);
    const last = logits.subarray((prompt.length - 1) * session.vocabSize);
    expect(relativeNorm(stepped ?? [], last)).toBeLessThan(1e-5);
  });
});

describe('what was changed by someone who does not know of it is refused', () => {
  /** Replaces a tensor in a saved directory. */
  async function change(dir: string, name: string): Promise<void> {
    await using files = await openTensorDirectory(dir);
    const tensors = await Promise.all(
      [...files.tensors].map(async ([key, { dtype, shape }]) => ({
        name: key,
        dtype,
        shape,
        data: await files.read(key),
      })),
    );
    for (const tensor of tensors.filter((one) => one.name === name)) {
      const floats = new Float32Array(tensor.data.slice().buffer).map((x, i) => x + Math.sin(7 * i * i));
      tensor.data = new Uint8Array(floats.buffer);
    }
    await writeTensorDirectory(dir, tensors);
  }

  it('a layer that is no longer equal', () =>
    withDirectory(async (dir) => {
      const path = join(dir, 'saved');
      using session = (await economical('deepseek_v3')).session;
      await session.save(path);
      await change(path, 'model.layers.2.self_attn.o_proj.weight');
      await expect(openSession(path)).rejects.toMatchObject({
        code: 'HADAL_ERR_CHECKPOINT',
        message: expect.stringMatching(
          /equal weights in the layers that share them.*take 'hadal' out of its config\.json/,
        ),
      });
    }));

  it('a matrix of a higher rank', () =>
    withDirectory(async (dir) => {
      const path = join(dir, 'saved');
      using session = (await economical('gpt2')).session;
      await session.save(path);
      rmSync(join(path, 'factors.safetensors'));
      await change(path, 'transformer.h.0.mlp.c_fc.weight');
      await expect(openSession(path)).rejects.toMatchObject({
        code: 'HADAL_ERR_CHECKPOINT',
        message: expect.stringMatching(/matrices of the rank that config\.json says/),
      });
    }));
});

it('shared weights begin as the mean of what the layers had', async () => {
  using session = (await economical('llama', { ties: [{ match: '*.o_proj.weight' }] })).session;
  await using files = await openTensorDirectory(goldenDir('llama'));
  const own = await Promise.all(
    [0, 1].map((layer) => readFloats(files, `model.layers.${layer}.self_attn.o_proj.weight`)),
  );
  const mean = own[0]?.map((x, i) => (x + (own[1]?.[i] as number)) / 2) ?? [];
  const found = (await session.tensors.get('model.layers.0.self_attn.o_proj.weight')?.toFloat32()) ?? [];
  expect(relativeNorm(found, mean)).toBeLessThan(1e-7);
});

function edit(dir: string, change: (config: Record<string, unknown>) => Record<string, unknown>): void {
  const path = join(dir, 'config.json');
  writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8')))));
}
