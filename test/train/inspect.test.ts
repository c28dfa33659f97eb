import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { test as tiny } from '../../src/cli/presets/test.js';
import { modelFromConfig } from '../../src/models/families.js';
import { parametersOf } from '../../src/models/model.js';
import { inspect } from '../../src/train/inspect.js';
import { deepseekV3, gpt2Small } from '../models/published-configs.js';

const { config } = tiny().model as { config: Record<string, unknown> };

describe('inspect', () => {
  it('plans the memory of a step: more rows take more activations and nothing else', async () => {
    const one = await inspect(config, { batch: 1, seqLen: 32, threads: 1, dtype: 'fp32' });
    const four = await inspect(config, { batch: 4, seqLen: 32, threads: 1, dtype: 'fp32' });
    const { parameters } = one.withMtp ?? one.model;
    expect(one.memory).toMatchObject({ batch: 1, seqLen: 32, threads: 1 });
    // Blocks are whole pages. The router's correction biases, 4 in each of two layers, are not the optimizer's.
    const tensors = parametersOf(modelFromConfig(config)).size;
    const { weights = 0, optimizer = 0 } = one.memory ?? {};
    expect(weights).toBeGreaterThan(4 * parameters);
    expect(weights).toBeLessThan(4 * parameters + 4096 * tensors);
    expect(optimizer).toBeGreaterThan(8 * (parameters - 8));
    expect(optimizer).toBeLessThan(8 * parameters + 2 * 4096 * (tensors + 1));
    expect(four.memory).toMatchObject({ weights, optimizer });
    expect(four.memory?.activations).toBeGreaterThan(1.5 * (one.memory?.activations ?? 0));
    const {
      planned,
      total,
      gradients = 0,
      activations = 0,
      workspace = 0,
      buffers = 0,
      snapshot = 0,
    } = four.memory ?? {};
    expect(total).toBe(planned);
    expect(total).toBe(weights + optimizer + gradients + activations + workspace + buffers + snapshot);
  });

  it('plans for bf16: copies of the weights, and smaller activations', async () => {
    const sizes = { batch: 4, seqLen: 32, threads: 1 };
    const wide = await inspect(config, { ...sizes, dtype: 'fp32' });
    const narrow = await inspect(config, { ...sizes, dtype: 'bf16' });
    const { weights = 0, activations = 0 } = wide.memory ?? {};
    expect(narrow.memory?.dtype).toBe('bf16');
    expect(narrow.memory?.weights).toBeGreaterThan(1.3 * weights);
    expect(narrow.memory?.weights).toBeLessThan(1.5 * weights);
    expect(narrow.memory?.activations).toBeLessThan(0.8 * activations);
    expect(narrow.memory?.optimizer).toBe(wide.memory?.optimizer);
  });

  it('looks at all of DeepSeek-V3, 12 TB in training, without allocating it', async () => {
    const before = process.memoryUsage().rss;
    const { model, memory } = await inspect(deepseekV3, { seqLen: 4096 });
    expect(model.parameters).toBe(671_026_419_200);
    expect(memory?.total).toBeGreaterThan(16 * 671e9);
    expect(memory?.activations).toBeGreaterThan(0);
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 31);
  });

  it('takes the path of a config.json, whatever its name, or of a directory', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'hadal-inspect-'));
    try {
      writeFileSync(join(dir, 'small.json'), JSON.stringify(config));
      writeFileSync(join(dir, 'config.json'), JSON.stringify(gpt2Small));
      expect((await inspect(join(dir, 'small.json'), { plan: false })).family).toBe('deepseek_v3');
      expect((await inspect(dir, { plan: false })).model.parameters).toBe(124_439_808);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('refuses rows that the model has no positions for', async () => {
    await expect(inspect(config, { seqLen: 129 })).rejects.toThrow(/expected rows of at most 128 tokens .*got 129/);
  });
});
