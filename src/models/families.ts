import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import { deepseek } from './deepseek.js';
import { deepseekFromHuggingFace } from './deepseek-config.js';
import { withEconomy } from './economy.js';
import { economyFromHuggingFace } from './economy-config.js';
import { gpt2, gpt2FromHuggingFace } from './gpt2.js';
import { llama } from './llama.js';
import { llamaFromHuggingFace } from './llama-config.js';
import type { Model } from './model.js';

/** Model families by the `model_type` of their config.json. */
const families: Record<string, (json: Record<string, unknown>, source: string) => Model> = {
  deepseek_v2: (json, source) => deepseek(deepseekFromHuggingFace(json, source)),
  deepseek_v3: (json, source) => deepseek(deepseekFromHuggingFace(json, source)),
  llama: (json, source) => llama(llamaFromHuggingFace(json, source)),
  qwen2: (json, source) => llama(llamaFromHuggingFace(json, source)),
  mistral: (json, source) => llama(llamaFromHuggingFace(json, source)),
  gpt2: (json, source) => gpt2(gpt2FromHuggingFace(json, source)),
};

/**
 * The model that a Hugging Face config describes.
 *
 * @param json - contents of config.json
 * @param source - file name for messages
 * @throws HadalError HADAL_ERR_CONFIG for an unknown family, or a field that is unknown, missing or impossible
 */
export function modelFromConfig(json: unknown, source = 'config.json'): Model {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new HadalError('HADAL_ERR_CONFIG', `[${source}] expected an object, got ${shown(json)}`);
  }
  const { hadal, ...plain } = json as Record<string, unknown>;
  const type = plain.model_type;
  const family = typeof type === 'string' && Object.hasOwn(families, type) ? families[type] : undefined;
  if (!family) {
    const known = Object.keys(families).join(', ');
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[${source}] field 'model_type' expected one of ${known}, got ${shown(type)}`,
    );
  }
  const model = family(plain, source);
  return hadal === undefined ? model : withEconomy(model, economyFromHuggingFace(hadal, source));
}
