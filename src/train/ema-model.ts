// The running means of a run's weights, as a model of their own within a checkpoint.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { contentsIn, type DirectoryContents } from '../formats/directory-contents.js';
import { emaPrefix, withEma } from '../optim/ema.js';
import { type ModelFilesOptions, modelContents, type ReadPart } from '../session/model-directory.js';
import { loadParameters, openModelSource } from '../session/model-source.js';
import type { Stepper } from './stepper.js';

/** Folder of a checkpoint that holds them. */
const folder = 'ema';

/** Whether a slot is in that folder, and so not among the optimizer's state. */
export const isInEmaModel = (slot: string): boolean => slot.startsWith(emaPrefix);

/**
 * What a checkpoint holds of them: a directory that `transformers` opens; null where none are kept.
 *
 * @param hasMeans - whether there was an update; the weights stand for the means until then
 */
export function emaContents(
  { model, tensors, stateSlots }: Stepper,
  hasMeans: boolean,
  options: ModelFilesOptions & { read?: ReadPart },
): DirectoryContents | null {
  if (!stateSlots.some(isInEmaModel)) return null;
  return contentsIn(folder, modelContents(model, hasMeans ? withEma(tensors) : tensors, options));
}

/**
 * Reads them back from a checkpoint.
 *
 * @throws HadalError HADAL_ERR_CHECKPOINT where there are none; as {@link openModelSource}, {@link loadParameters}
 */
export async function loadEma(checkpoint: string, { tensors, stateSlots }: Stepper): Promise<void> {
  if (!stateSlots.some(isInEmaModel)) return;
  const path = join(checkpoint, folder);
  if (!existsSync(path)) {
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[checkpoint] expected running means of the weights in ${path}, found none; resume with the run's own optimizer.emaDecay`,
    );
  }
  await loadParameters(await openModelSource(path), withEma(tensors));
}
