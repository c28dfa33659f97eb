// Numbers of published models, as their config.json has them: those of the presets.
import { deepseekV2Lite as v2LiteRun, deepseekV3 as v3Run } from '../../src/cli/presets/deepseek.js';
import { gpt2124m } from '../../src/cli/presets/gpt2-124m.js';
import type { Preset } from '../../src/cli/presets/preset.js';

function configOf({ model }: Preset): Record<string, unknown> {
  if (!('config' in model)) throw new Error('a preset without a config');
  return model.config;
}

export const deepseekV3 = configOf(v3Run());
export const deepseekV2Lite = configOf(v2LiteRun());
export const gpt2Small = configOf(gpt2124m());
