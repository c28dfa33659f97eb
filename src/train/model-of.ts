// The model that a configuration asks for.
import { HadalError } from '../core/errors.js';
import { withEconomy } from '../models/economy.js';
import { modelFromConfig } from '../models/families.js';
import type { Model } from '../models/model.js';
import { type ModelSource, openModelSource } from '../session/model-source.js';
import type { TrainConfig } from './config.js';

/**
 * @returns also where its weights come from; null: they are random
 * @throws HadalError HADAL_ERR_CONFIG, also when rows are longer than the model's positions; HADAL_ERR_FORMAT, HADAL_ERR_IO
 */
export async function modelOf(config: TrainConfig): Promise<{ model: Model; source: ModelSource | null }> {
  const { model: given, seqLen } = config;
  const source = 'config' in given ? null : await openModelSource(given.directory);
  const whole = 'config' in given ? modelFromConfig(given.config, 'model.config') : (source as ModelSource).model;
  const model = withEconomy(whole, given);
  if (seqLen <= model.maxPositions) return { model, source };
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[train] field 'seqLen' expected at most ${model.maxPositions} (the model's positions), got ${seqLen}`,
  );
}
