// The running means of a run's weights, as a model of their own within a checkpoint.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { contentsIn, type DirectoryContents } from '../formats/directory-contents.js';
import type { Model } from '../models/model.js';
import { withEma } from '../optim/ema.js';
import { type ModelFilesOptions, modelContents, type ReadPart } from '../session/model-directory.js';
import { loadParameters, openModelSource } from '../session/model-source.js';
import type { SavedTensor } from './saved-tensors.js';

/** Folder of a checkpoint that holds them. */
const folder = 'ema';

/**
 * What a checkpoint holds of them: a directory that `transformers` opens; null where none are kept.
 *
 * @param saved - as of `savedTensors`
 * @param hasMeans - whether there was an update; the weights stand for the means until then
 */
export function emaContents(
  { model }: { model: Model },
  saved: ReadonlyMap<string, SavedTensor>,
  hasMeans: boolean,
  options: ModelFilesOptions & { read: ReadPart<SavedTensor> },
): DirectoryContents | null {
  if (!hasMeansAmong(saved)) return null;
  return contentsIn(folder, modelContents(model, hasMeans ? withEma(saved) : saved, options));
}

const hasMeansAmong = (saved: ReadonlyMap<string, SavedTensor>): boolean =>
  [...saved.values()].some(({ kind }) => kind === 'mean');

/**
 * Reads them back from a checkpoint.
 *
 * @throws HadalError HADAL_ERR_CHECKPOINT where there are none; as {@link openModelSource}, {@link loadParameters}
 */
export async function loadEma(checkpoint: string, saved: ReadonlyMap<string, SavedTensor>): Promise<void> {
  if (!hasMeansAmong(saved)) return;
  const path = join(checkpoint, folder);
  if (!existsSync(path)) {
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[checkpoint] expected running means of the weights in ${path}, found none; resume with the run's own optimizer.emaDecay`,
    );
  }
  await loadParameters(await openModelSource(path), withEma(saved));
}
