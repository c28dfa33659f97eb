// A checkpoint is a Hugging Face directory with the optimizer's state beside the model. It appears whole or not at all.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import type { DataCursor } from '../data/batch.js';
import { withAtomicDirectory, writeFileAtomic } from '../formats/atomic-file.js';
import { verifyManifest, writeManifest } from '../formats/manifest.js';
import { openTensorDirectory } from '../formats/safetensors.js';
import { writeTensorDirectory } from '../formats/safetensors-writer.js';
import type { Tensor } from '../runtime/tensor.js';
import {
  formatOf,
  loadParameters,
  readPart,
  type TokenizerFiles,
  writeModelFiles,
} from '../session/model-directory.js';
import type { RunDirectory } from './run-directory.js';
import type { Stepper } from './stepper.js';

const stateSchema = z.object({
  step: z.number().int().nonnegative(),
  tokens: z.number().int().nonnegative(),
  skippedSteps: z.number().int().nonnegative(),
  seed: z.number().int(),
  /** Where the data goes on; checked by the loader. */
  cursor: z.custom<DataCursor>((value) => typeof value === 'object' && value !== null),
  /** Same bits are promised for these only. */
  threads: z.number().int().positive(),
  instructionSet: z.string(),
});

/** What a checkpoint knows beside the tensors. */
export type TrainState = z.output<typeof stateSchema>;

/** Writes a checkpoint; returns its size in bytes. @throws HadalError HADAL_ERR_IO */
export async function saveCheckpoint(
  path: string,
  stepper: Stepper,
  state: TrainState,
  tokenizer: TokenizerFiles | null,
): Promise<number> {
  return withAtomicDirectory(path, async (temporary) => {
    await writeModelFiles(temporary, stepper.model, stepper.tensors, { tokenizer });
    const optimizer = stepper.optimizerSlots.map((name) => {
      const tensor = stepper.tensors.get(name) as Tensor;
      return {
        name,
        dtype: formatOf(tensor),
        shape: tensor.shape,
        data: () => readPart(tensor, { shape: tensor.shape, offset: 0 }),
      };
    });
    await writeTensorDirectory(temporary, optimizer, { name: 'optimizer' });
    await writeFileAtomic(join(temporary, 'state.json'), `${JSON.stringify(state, null, 2)}\n`);
    const { files } = await writeManifest(temporary);
    return files.reduce((sum, { bytes }) => sum + bytes, 0);
  });
}

/**
 * Loads the newest checkpoint that is whole.
 *
 * @param damaged - told of every checkpoint that was passed over, and why
 * @returns null when there is none
 * @throws HadalError HADAL_ERR_CHECKPOINT when all are damaged, or it belongs to another model
 */
export async function loadNewestCheckpoint(
  run: RunDirectory,
  stepper: Stepper,
  damaged: (message: string) => void,
): Promise<TrainState | null> {
  const names = await run.checkpoints();
  for (const name of names) {
    const path = join(run.path, 'checkpoints', name);
    try {
      await verifyManifest(path);
    } catch (error) {
      if (!(error instanceof HadalError) || error.code !== 'HADAL_ERR_CHECKPOINT') throw error;
      damaged(`checkpoint ${name} is passed over: ${error.message}`);
      continue;
    }
    return loadCheckpoint(path, stepper);
  }
  if (names.length === 0) return null;
  throw new HadalError(
    'HADAL_ERR_CHECKPOINT',
    `[train] expected a whole checkpoint in ${run.path}, all ${names.length} are damaged`,
  );
}

async function loadCheckpoint(path: string, stepper: Stepper): Promise<TrainState> {
  const file = join(path, 'state.json');
  const json = parseJson(await readFile(file), { part: 'checkpoint', what: file, code: 'HADAL_ERR_CHECKPOINT' });
  const state = stateSchema.safeParse(json);
  if (!state.success) {
    throw new HadalError('HADAL_ERR_CHECKPOINT', `[checkpoint] ${file}: ${state.error.issues[0]?.message}`);
  }
  await loadParameters(path, stepper.model, stepper.tensors);
  await using optimizer = await openTensorDirectory(path, { name: 'optimizer' });
  for (const name of stepper.optimizerSlots) {
    const tensor = stepper.tensors.get(name) as Tensor;
    const entry = optimizer.tensors.get(name);
    if (!entry || entry.byteLength !== tensor.bytes || entry.dtype !== formatOf(tensor)) {
      throw new HadalError(
        'HADAL_ERR_CHECKPOINT',
        `[checkpoint] ${path} expected optimizer state '${name}' of ${tensor.bytes} bytes, found ${entry ? `${entry.byteLength}` : 'none'}`,
      );
    }
    await tensor.write(await optimizer.read(name));
  }
  return state.data;
}
