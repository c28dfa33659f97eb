// A checkpoint is a Hugging Face directory with the optimizer's state beside the model. It appears whole or not at all.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import { parseJson } from '../core/json.js';
import type { DataCursor } from '../data/batch.js';
import type { DirectoryContents } from '../formats/directory-contents.js';
import { withFileErrors } from '../formats/file-error.js';
import { verifyManifest } from '../formats/manifest.js';
import { openTensorDirectory, type SafetensorsDType } from '../formats/safetensors.js';
import type { Model } from '../models/model.js';
import type { Tensor } from '../runtime/tensor.js';
import { type ModelFilesOptions, modelContents, type ReadPart, readPart } from '../session/model-directory.js';
import { loadParameters, type ModelSource, openModelSource } from '../session/model-source.js';
import { checkpointsPath } from './checkpoint-list.js';
import { emaContents, isInEmaModel, loadEma } from './ema-model.js';
import type { RunDirectory } from './run-directory.js';
import type { Stepper } from './stepper.js';
import { nothingWatched } from './watch.js';

const stateSchema = z.object({
  step: z.number().int().nonnegative(),
  tokens: z.number().int().nonnegative(),
  skippedSteps: z.number().int().nonnegative(),
  /** Loss on held-out text after this very step, where it was measured. */
  evalLoss: z.number().nullable().default(null),
  seed: z.number().int(),
  /** Where the data goes on; checked by the loader. */
  cursor: z.custom<DataCursor>((value) => typeof value === 'object' && value !== null),
  /** What watching knows. */
  watch: z
    .object({
      lrFactor: z.number().positive(),
      losses: z.array(z.number()),
      skippedInARow: z.number().int().nonnegative(),
      holding: z.array(z.string()),
    })
    .default(nothingWatched),
  /** Same bits are promised for these only. */
  threads: z.number().int().positive(),
  instructionSet: z.string(),
  dtype: z.enum(['fp32', 'bf16', 'fp16', 'fp8']).default('fp32'), // what checkpoints are of that do not say it
});

/** What a checkpoint knows beside the tensors. */
export type TrainState = z.output<typeof stateSchema>;

/** Whether any update has changed the weights. */
export const hasUpdated = ({ step, skippedSteps }: TrainState): boolean => step > skippedSteps;

/** How state is written in a file. */
const formats: Record<DType, SafetensorsDType> = { fp32: 'F32', bf16: 'BF16', fp16: 'F16', int32: 'I32', uint8: 'U8' };

/** The tensors that a checkpoint holds. */
export const savedTensors = ({ parameters, stateSlots, tensors }: Stepper): Tensor[] =>
  [...parameters.keys(), ...stateSlots].map((name) => tensors.get(name) as Tensor);

/**
 * What a checkpoint's directory holds: the model, the state of its training, and where that stands.
 *
 * @param read - reads a tensor's numbers; unless given, as they are when they are written
 */
export function checkpointContents(
  stepper: Stepper,
  state: TrainState,
  beside: ModelFilesOptions,
  read: ReadPart = readPart,
): DirectoryContents {
  const { texts, tensors } = modelContents(stepper.model, stepper.tensors, { ...beside, read });
  const means = emaContents(stepper, hasUpdated(state), { ...beside, read });
  const slots = stepper.stateSlots.filter((name) => !isInEmaModel(name));
  const optimizer = slots.map((name) => {
    const tensor = stepper.tensors.get(name) as Tensor;
    const { dtype, shape } = tensor;
    return { name, dtype: formats[dtype], shape, data: () => read(tensor, { shape, offset: 0 }) };
  });
  return {
    texts: { ...texts, ...means?.texts, 'state.json': `${JSON.stringify(state, null, 2)}\n` },
    tensors: { ...tensors, ...means?.tensors, optimizer },
  };
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
    const path = join(checkpointsPath(run.path), name);
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
  await loadEma(path, stepper);
  await using optimizer = await openTensorDirectory(path, { name: 'optimizer' });
  for (const name of stepper.stateSlots) {
    if (isInEmaModel(name)) continue;
    const tensor = stepper.tensors.get(name) as Tensor;
    const entry = optimizer.tensors.get(name);
    if (!entry || entry.byteLength !== tensor.bytes || entry.dtype !== formats[tensor.dtype]) {
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
