import { deepseekV2Lite, deepseekV3 } from './deepseek.js';
import { gpt2124m } from './gpt2-124m.js';
import type { Preset } from './preset.js';
import { shallow } from './shallow.js';
import { test } from './test.js';

/** Whole runs by name. Each call makes a configuration of its own, to be changed at will. */
export const presets = {
  shallow,
  test,
  'gpt2-124m': gpt2124m,
  'deepseek-v2-lite': deepseekV2Lite,
  'deepseek-v3': deepseekV3,
} as const satisfies Record<string, () => Preset>;

/** Name of a preset. */
export type PresetName = keyof typeof presets;

/** What each preset is for, in a line. */
export const presetSummaries: Record<PresetName, string> = {
  shallow: 'a small DeepSeek-V3 on real English, minutes on two cores (the default)',
  test: 'a tiny DeepSeek-V3 on text made by code, seconds',
  'gpt2-124m': 'GPT-2 small; name your data with --data',
  'deepseek-v2-lite': 'DeepSeek-V2-Lite, 15.7 B parameters, as published; name your data',
  'deepseek-v3': 'DeepSeek-V3, 671 B parameters, as published; name your data',
};
