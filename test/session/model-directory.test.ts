import { readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fromFloat32, toFloat32 } from '../../src/formats/convert.js';
import type { SafetensorsDType } from '../../src/formats/safetensors.js';
import { parametersOf } from '../../src/models/model.js';
import { saveModelDirectory } from '../../src/session/model-directory.js';
import { openModel, openSession, type SessionParts } from '../../src/session/session.js';
import { goldenDir, readGolden, rowsOf } from '../goldens/golden.js';
import { copyModel, type StoredTensor, storedTensors, withDirectory } from './model-copies.js';

const open = (dir: string, options = {}) => openModel(dir, { device: 'cpu', threads: 1, ...options });

function release({ tensors, device }: SessionParts): void {
  for (const tensor of tensors.values()) tensor.dispose();
  device.dispose();
}

/** A model's parameters as they are on disk: by part. */
async function partsOf(dir: string): Promise<Map<string, Float32Array>> {
  const opened = await open(dir);
  const found = new Map<string, Float32Array>();
  for (const { name, parts } of parametersOf(opened.model).values()) {
    const whole = (await opened.tensors.get(name)?.toFloat32()) ?? new Float32Array();
    for (const part of parts)
      found.set(part.name, whole.slice(part.offset, part.offset + part.shape.reduce((a, b) => a * b, 1)));
  }
  release(opened);
  return found;
}

const floatsOf = ({ dtype, data }: StoredTensor) => toFloat32(dtype, data);
const as = (dtype: SafetensorsDType) => (tensors: StoredTensor[]) =>
  tensors.map((tensor) => ({ ...tensor, dtype, data: fromFloat32(dtype, floatsOf(tensor)) }));

describe('reading', () => {
  it.each(['F16', 'BF16', 'F64'] as const)('%s becomes fp32', (dtype) =>
    withDirectory(async (dir) => {
      await copyModel('deepseek_v3', dir, { tensors: as(dtype) });
      const parts = await partsOf(dir);
      const stored = await storedTensors(dir);
      expect(parts.size).toBe(stored.length);
      for (const tensor of stored) expect(parts.get(tensor.name), tensor.name).toEqual(floatsOf(tensor));
    }),
  );

  it('shards give the same as one file', () =>
    withDirectory(async (dir) => {
      await copyModel('deepseek_v2', dir, { maxShardBytes: 20_000 });
      expect((await readdir(dir)).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(3);
      expect(await partsOf(dir)).toEqual(await partsOf(goldenDir('deepseek_v2')));
    }));

  it('fp8 blocks are multiplied by their scales, block size from the config', () =>
    withDirectory(async (dir) => {
      const block = 16;
      const expected = new Map<string, Float32Array>();
      const quantize = (tensor: StoredTensor): StoredTensor[] => {
        const [rows, cols] = tensor.shape as [number, number];
        if (!/_proj\.weight$/.test(tensor.name)) return [tensor];
        const grid = [Math.ceil(rows / block), Math.ceil(cols / block)] as [number, number];
        const scales = Float32Array.from({ length: grid[0] * grid[1] }, (_, i) => 0.01 * (i + 1));
        const scaleAt = (i: number) =>
          scales[Math.floor(i / cols / block) * grid[1] + Math.floor((i % cols) / block)] as number;
        const codes = fromFloat32(
          'F8_E4M3',
          floatsOf(tensor).map((x, i) => x / scaleAt(i)),
        );
        expected.set(
          tensor.name,
          toFloat32('F8_E4M3', codes).map((x, i) => x * scaleAt(i)),
        );
        return [
          { ...tensor, dtype: 'F8_E4M3', data: codes },
          { name: `${tensor.name}_scale_inv`, dtype: 'F32', shape: grid, data: fromFloat32('F32', scales) },
        ];
      };
      const config = { quantization_config: { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [block, block] } };
      await copyModel('deepseek_v3', dir, { tensors: (tensors) => tensors.flatMap(quantize), config });
      const parts = await partsOf(dir);
      expect(expected.size).toBeGreaterThan(100);
      for (const [name, values] of expected) expect(parts.get(name), name).toEqual(values);
    }));

  it('GPT-2 without prefix, with the mask buffers and head that older files hold', () =>
    withDirectory(async (dir) => {
      const tensors = (stored: StoredTensor[]): StoredTensor[] => {
        const extra = (name: string): StoredTensor => ({ name, dtype: 'F32', shape: [1], data: new Uint8Array(4) });
        const bare = stored.map((tensor) => ({ ...tensor, name: tensor.name.replace('transformer.', '') }));
        return [...bare, ...['h.0.attn.bias', 'h.1.attn.masked_bias', 'lm_head.weight'].map(extra)];
      };
      await copyModel('gpt2', dir, { tensors });
      expect(await partsOf(dir)).toEqual(await partsOf(goldenDir('gpt2')));
    }));

  it('bf16 parameters, the correction bias in fp32', async () => {
    const opened = await open(goldenDir('deepseek_v3'), { dtype: 'bf16' });
    const dtypes = new Set(
      [...opened.tensors].map(([name, { dtype }]) => `${dtype} ${name.includes('correction_bias')}`),
    );
    expect([...dtypes].sort()).toEqual(['bf16 false', 'fp32 true']);
    release(opened);
  });
});

describe('refusals', () => {
  const refused = (name: string, change: Parameters<typeof copyModel>[2], code: string, message: RegExp) =>
    it(name, () =>
      withDirectory(async (dir) => {
        await copyModel('deepseek_v3', dir, change);
        await expect(open(dir)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
      }),
    );
  const norm = 'model.layers.1.input_layernorm.weight';
  const extra: StoredTensor = { name: 'model.layers.7.bias', dtype: 'F32', shape: [1], data: new Uint8Array(4) };

  refused(
    'a missing tensor',
    { tensors: (all) => all.filter(({ name }) => name !== norm) },
    'HADAL_ERR_CHECKPOINT',
    /layers\.1\.input_layernorm/,
  );
  it('missing prediction modules, with what to set', () =>
    withDirectory(async (dir) => {
      const without = (pattern: RegExp) => (all: StoredTensor[]) => all.filter(({ name }) => !pattern.test(name));
      const message = async () => ((await open(dir).catch((error: unknown) => error)) as Error).message;
      const advice = /; set num_nextn_predict_layers to 0 in config\.json if the directory has no MTP module$/;
      const { num_hidden_layers: layers } = JSON.parse(
        await readFile(join(goldenDir('deepseek_v3_mtp'), 'config.json'), 'utf8'),
      ) as { num_hidden_layers: number };
      await copyModel('deepseek_v3_mtp', dir, { tensors: without(new RegExp(`layers\\.${layers}\\.`)) });
      expect(await message()).toMatch(advice);
      await copyModel('deepseek_v3_mtp', dir, { tensors: without(new RegExp(`layers\\.[${layers - 1}${layers}]\\.`)) });
      expect(await message()).toMatch(/none named 'model\.layers/);
      expect(await message()).not.toMatch(advice);
    }));
  refused(
    'an unexpected tensor',
    { tensors: (all) => [...all, extra] },
    'HADAL_ERR_CHECKPOINT',
    /also 'model\.layers\.7\.bias'/,
  );
  refused(
    'another shape',
    { tensors: (all) => all.map((tensor) => (tensor.name === norm ? { ...tensor, shape: [1, 28] } : tensor)) },
    'HADAL_ERR_CHECKPOINT',
    /input_layernorm\.weight' of shape \[28\].*\[1, 28\]/,
  );
  refused(
    'integers',
    { tensors: (all) => all.map((tensor) => ({ ...tensor, dtype: 'I32' as const })) },
    'HADAL_ERR_DTYPE',
    /I32/,
  );
  refused(
    'scales of another block size',
    {
      tensors: (all) =>
        all.flatMap((tensor) =>
          tensor.name === 'lm_head.weight'
            ? [
                { ...tensor, dtype: 'F8_E4M3' as const, data: new Uint8Array(101 * 28) },
                { name: `${tensor.name}_scale_inv`, dtype: 'F32' as const, shape: [7, 2], data: new Uint8Array(56) },
              ]
            : [tensor],
        ),
    },
    'HADAL_ERR_SHAPE',
    /scales/,
  );
  refused(
    'another quantisation',
    { config: { quantization_config: { quant_method: 'awq' } } },
    'HADAL_ERR_CONFIG',
    /quantization_config.*awq/,
  );
  refused('an unknown family', { config: { model_type: 'mamba' } }, 'HADAL_ERR_CONFIG', /model_type/);

  it('damaged files', () =>
    withDirectory(async (dir) => {
      await expect(open(join(dir, 'none'))).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
      await copyModel('deepseek_v3', dir, {});
      await truncate(join(dir, 'model.safetensors'), 90_000);
      await expect(open(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_FORMAT' });
      await writeFile(join(dir, 'config.json'), '{');
      await expect(open(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG' });
    }));

  it('a tokenizer larger than the vocabulary', () =>
    withDirectory(async (dir) => {
      await copyModel('deepseek_v3', dir, {});
      const vocab = Object.fromEntries(Array.from({ length: 102 }, (_, id) => [`t${id}`, id]));
      const tokenizer = { version: '1.0', model: { type: 'BPE', vocab, merges: [] } };
      await writeFile(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
      await expect(open(dir)).rejects.toMatchObject({
        code: 'HADAL_ERR_CHECKPOINT',
        message: expect.stringMatching(/101.*102/),
      });
    }));

  it('devices and dtypes that are not there', async () => {
    const dir = goldenDir('gpt2');
    await expect(open(dir, { device: 'abacus' })).rejects.toMatchObject({ code: 'HADAL_ERR_DEVICE' });
    await expect(open(dir, { dtype: 'int32' })).rejects.toMatchObject({ code: 'HADAL_ERR_DTYPE' });
    await expect(open(dir, { dtype: 'fp7' })).rejects.toMatchObject({ code: 'HADAL_ERR_DTYPE' });
    await expect(open(dir, { threads: 0 })).rejects.toMatchObject({ code: 'HADAL_ERR_CONFIG' });
  });
});

describe('writing', () => {
  const cases = [
    'deepseek_v3',
    'deepseek_v3_no_q_lora',
    'deepseek_v3_half_rope',
    'deepseek_v3_yarn',
    'deepseek_v3_mtp',
    'deepseek_v2',
    'deepseek_v2_group',
    'gpt2',
  ];
  it.each(cases)('%s comes back bit for bit, under the same names', (name) =>
    withDirectory(async (dir) => {
      const ids = rowsOf(await readGolden(name), 'input_ids');
      using session = await openSession(goldenDir(name), { device: 'cpu', threads: 1 });
      const saved = join(dir, 'saved');
      await session.save(saved);
      const byName = (tensors: StoredTensor[]) => new Map(tensors.map((tensor) => [tensor.name, tensor]));
      expect(byName(await storedTensors(saved))).toEqual(byName(await storedTensors(goldenDir(name))));
      using again = await openSession(saved, { device: 'cpu', threads: 1 });
      expect(await again.forward(ids)).toEqual(await session.forward(ids));
      expect(again.model.toHuggingFace()).toEqual(session.model.toHuggingFace());
    }),
  );

  it('shards, bf16 and tokenizer files', () =>
    withDirectory(async (dir) => {
      const opened = await open(goldenDir('deepseek_v3_mtp'), { dtype: 'bf16' });
      const tokenizer = { json: '{"version":"1.0"}', configJson: '{}' };
      await saveModelDirectory(join(dir, 'saved'), opened.model, opened.tensors, { tokenizer, maxShardBytes: 20_000 });
      release(opened);
      const config = JSON.parse(await readFile(join(dir, 'saved/config.json'), 'utf8')) as Record<string, unknown>;
      expect(config.dtype).toBe('bfloat16');
      expect(await readFile(join(dir, 'saved/tokenizer.json'), 'utf8')).toBe(tokenizer.json);
      const expected = as('BF16')(await storedTensors(goldenDir('deepseek_v3_mtp'))).map(
        ({ name, data, dtype }) => [name, toFloat32(dtype, data)] as const,
      );
      const found = new Map((await storedTensors(join(dir, 'saved'))).map((tensor) => [tensor.name, tensor]));
      expect(found.size).toBe(expected.length);
      for (const [name, values] of expected) {
        const tensor = found.get(name) as StoredTensor;
        expect(tensor.dtype, name).toBe(name.endsWith('correction_bias') ? 'F32' : 'BF16');
        if (tensor.dtype === 'BF16') expect(floatsOf(tensor), name).toEqual(values);
      }
    }));

  it('writes floats as floats, which transformers insists on', () =>
    withDirectory(async (dir) => {
      await copyModel('deepseek_v2', dir, { config: { routed_scaling_factor: 1, rms_norm_eps: 1e-7 } });
      using session = await openSession(dir, { device: 'cpu', threads: 1 });
      await session.save(join(dir, 'saved'));
      const text = await readFile(join(dir, 'saved/config.json'), 'utf8');
      for (const field of [
        'routed_scaling_factor": 1.0',
        'attention_dropout": 0.0',
        'factor": 40.0',
        'rms_norm_eps": 1e-7',
        'hidden_size": 30',
      ]) {
        expect(text).toContain(`"${field},\n`);
      }
    }));

  it('leaves a directory with contents alone', () =>
    withDirectory(async (dir) => {
      using session = await openSession(goldenDir('gpt2'), { device: 'cpu', threads: 1 });
      await writeFile(join(dir, 'mine.txt'), 'mine');
      await expect(session.save(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
      expect(await readdir(dir)).toEqual(['mine.txt']);
    }));
});
