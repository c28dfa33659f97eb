// A checkpoint is a Hugging Face directory with the optimizer's state beside the model. It appears whole or not at all.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import { parseJson } from '../core/json.js';
import type { DataCursor } from '../data/batch.js';
import { withAtomicDirectory, writeFileAtomic } from '../formats/atomic-file.js';
import { withFileErrors } from '../formats/file-error.js';
import { verifyManifest, writeManifest } from '../formats/manifest.js';
import { openTensorDirectory } from '../formats/safetensors.js';
import { writeTensorDirectory } from '../formats/safetensors-writer.js';
import type { Model } from '../models/model.js';
import type { Tensor } from '../runtime/tensor.js';
import { formatOf, type ModelFilesOptions, readPart, writeModelFiles } from '../session/model-directory.js';
import { loadParameters, type ModelSource, openModelSource } from '../session/model-source.js';
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
  dtype: z.enum(['fp32', 'bf16']).default('fp32'), // what checkpoints are of that do not say it
});

/** What a checkpoint knows beside the tensors. */
export type TrainState = z.output<typeof stateSchema>;

/** Writes a checkpoint; returns its size in bytes. @throws HadalError HADAL_ERR_IO */
export async function saveCheckpoint(
  path: string,
  stepper: Stepper,
  state: TrainState,
  beside: Pick<ModelFilesOptions, 'tokenizer' | 'generation'>,
): Promise<number> {
  return withAtomicDirectory(path, async (temporary) => {
    await writeModelFiles(temporary, stepper.model, stepper.tensors, beside);
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
 * @param passedOver - told of every damaged checkpoint, and why
 * @returns null when there is none
 * @throws HadalError HADAL_ERR_CHECKPOINT when all are damaged, or it belongs to another model
 */
export async function loadNewestCheckpoint(
  run: RunDirectory,
  stepper: Stepper,
  passedOver: (message: string) => void,
): Promise<TrainState | null> {
  const damages = new Map<string, string>();
  for (const name of await run.checkpoints()) {
    const path = join(run.path, 'checkpoints', name);
    try {
      await verifyManifest(path);
    } catch (error) {
      if (!(error instanceof HadalError) || error.code !== 'HADAL_ERR_CHECKPOINT') throw error;
      damages.set(name, error.message);
      continue;
    }
    const state = await loadCheckpoint(path, stepper);
    for (const [damaged, message] of damages) {
      await run.setAside(damaged);
      passedOver(`checkpoint ${damaged} is damaged and now called ${damaged}.damaged: ${message}`);
    }
    return state;
  }
  if (damages.size === 0) return null;
  const [newest] = damages.values();
  throw new HadalError(
    'HADAL_ERR_CHECKPOINT',
    `[train] expected a whole checkpoint in ${run.path}, all ${damages.size} are damaged; the newest: ${newest}`,
  );
}

async function loadCheckpoint(path: string, stepper: Stepper): Promise<TrainState> {
  const source = await openModelSource(path);
  requireSameModel(source, stepper.model);
  const file = join(path, 'state.json');
  const text = await withFileErrors(`read ${file}`, () => readFile(file));
  const json = parseJson(text, { part: 'checkpoint', what: file, code: 'HADAL_ERR_CHECKPOINT' });
  const state = stateSchema.safeParse(json);
  if (!state.success) {
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[checkpoint] expected the state of a run in ${file}, got ${shown(json)}`,
    );
  }
  await loadParameters(source, stepper.tensors);
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

function requireSameModel({ path, model: found }: ModelSource, model: Model): void {
  const [there, here] = [found.toHuggingFace(), model.toHuggingFace()];
  const field = Object.keys({ ...there, ...here }).find((key) => !isDeepStrictEqual(there[key], here[key]));
  if (field === undefined) return;
  const [expected, got] = [here, there].map((config) => JSON.stringify(config[field]) ?? 'nothing');
  throw new HadalError(
    'HADAL_ERR_CHECKPOINT',
    `[checkpoint] expected a model whose '${field}' is ${expected} in ${path}, got ${got}; give the run's own model to resume`,
  );
}
