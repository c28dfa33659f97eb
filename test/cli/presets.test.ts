import { describe, expect, it } from 'vitest';
import { type PresetName, presetSummaries, presets } from '../../src/cli/presets/presets.js';
import { modelFromConfig } from '../../src/models/families.js';
import { countModel, type ModelCounts } from '../../src/models/inspect.js';
import { resolveTrainConfig } from '../../src/train/config.js';
import { deepseekV2Lite, deepseekV3, gpt2Small } from '../models/published-configs.js';

const names = Object.keys(presets) as PresetName[];

function modelConfig(name: PresetName): Record<string, unknown> {
  const { model } = presets[name]();
  return 'config' in model ? model.config : {};
}

function counts(name: PresetName): ModelCounts {
  return countModel(modelFromConfig(modelConfig(name)), presets[name]().seqLen);
}

describe('presets', () => {
  it.each(names)('%s is a whole configuration once it has data and a place', (name) => {
    const preset = presets[name]();
    const sources = preset.data.sources.length > 0 ? preset.data.sources : ['synthetic'];
    const config = resolveTrainConfig({ ...preset, data: { ...preset.data, sources }, out: 'runs/x' });
    expect(config.seqLen).toBeLessThanOrEqual(modelFromConfig(modelConfig(name)).maxPositions);
    expect(presetSummaries[name]).toBeTruthy();
  });

  it('each call makes a configuration of its own', () => {
    for (const name of names) expect(presets[name]().model).not.toBe(presets[name]().model);
  });

  it('shallow has 5 to 15 million parameters and all parts of DeepSeek-V3', () => {
    const { withMtp, groups, family } = counts('shallow');
    expect(family).toBe('deepseek_v3');
    expect(withMtp?.parameters).toBeGreaterThan(5e6);
    expect(withMtp?.parameters).toBeLessThan(15e6);
    const parts = ['dense layers', 'router', 'routed experts', 'shared experts', 'multi-token prediction'];
    expect(groups.map(({ name }) => name)).toEqual(expect.arrayContaining(parts));
    expect(modelConfig('shallow').q_lora_rank).toBeGreaterThan(0);
  });

  it('test is tiny', () => {
    expect(counts('test').withMtp?.parameters).toBeLessThan(200_000);
  });

  it('the published models have the published numbers', () => {
    const published = { 'deepseek-v3': deepseekV3, 'deepseek-v2-lite': deepseekV2Lite, 'gpt2-124m': gpt2Small };
    for (const [name, config] of Object.entries(published)) {
      const ours = modelFromConfig(modelConfig(name as PresetName)).toHuggingFace();
      const theirs = modelFromConfig(config).toHuggingFace();
      // Trained as the papers say (0.006) or without dropout; the files for others to use say otherwise.
      const choices = /^(initializer_range|.*_pdrop|(bos|eos)_token_id)$/;
      const fixed = (fields: Record<string, unknown>) =>
        Object.fromEntries(Object.entries(fields).filter(([key]) => !choices.test(key)));
      expect(fixed(ours)).toEqual(fixed(theirs));
    }
  });
});
