// A checkpoint is a Hugging Face directory with the optimizer's state beside the model. It appears whole or not at all.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import { parseJson } from '../core/json.js';
import type { DataCursor } from '../data/batch.js';
import { withFileErrors } from '../formats/file-error.js';
import { verifyManifest } from '../formats/manifest.js';
import { TensorPieces } from '../formats/tensor-pieces.js';
import type { Model } from '../models/model.js';
import { loadParameters, type ModelSource, openModelSource } from '../session/model-source.js';
import { checkpointsPath } from './checkpoint-list.js';
import { loadEma } from './ema-model.js';
import { loadState } from './load-state.js';
import type { RunDirectory } from './run-directory.js';
import { savedTensors, type TensorHolder } from './saved-tensors.js';
import { Together } from './together.js';
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
  /** The processes that trained together, and their ZeRO stage; not said of one alone. */
  dist: z.object({ worldSize: z.number().int().positive(), zero: z.number().int().nonnegative() }).optional(),
});

/** What a checkpoint knows beside the tensors. */
export type TrainState = z.output<typeof stateSchema>;

/** Whether any update has changed the weights. */
export const hasUpdated = ({ step, skippedSteps }: TrainState): boolean => step > skippedSteps;

/** What loading needs of a run directory; what is written is rank 0's to write. */
type CheckpointsOfRun = Pick<RunDirectory, 'path' | 'checkpoints' | 'setAside'>;

/**
 * Loads the newest checkpoint that is whole: in several processes the one that rank 0 finds, of which each reads what it
 * holds.
 *
 * @param notes - told of every damaged checkpoint, and why, and of what the run does not go on with
 * @returns null when there is none
 * @throws HadalError HADAL_ERR_CHECKPOINT when all are damaged, or it belongs to another model; HADAL_ERR_CONFIG where a
 *   process does not see what rank 0 sees
 */
export async function loadNewestCheckpoint(
  run: CheckpointsOfRun,
  stepper: TensorHolder,
  notes: (message: string) => void,
  together = new Together(null),
): Promise<TrainState | null> {
  const damages = new Map<string, string>();
  const names = await together.madeByFirst('checkpoints', () => run.checkpoints());
  for (const name of names) {
    const path = join(checkpointsPath(run.path), name);
    const damage = await damageOf(path, together);
    if (damage !== null) {
      damages.set(name, damage);
      continue;
    }
    const [loaded] = await together.done('checkpoint loaded', () => loadCheckpoint(path, stepper, together));
    const { state, notes: found } = loaded as Loaded;
    for (const message of found) notes(message);
    for (const [damaged, message] of damages) {
      await run.setAside(damaged);
      notes(`checkpoint ${damaged} is damaged and now called ${damaged}.damaged: ${message}`);
    }
    return state;
  }
  if (damages.size === 0) return null;
  const [newest] = damages.values();
  throw together.common(
    'HADAL_ERR_CHECKPOINT',
    `[train] expected a whole checkpoint in ${run.path}, all ${damages.size} are damaged; the newest: ${newest}`,
  );
}

/** What is wrong with a checkpoint, the same for all processes, each of which reads some of its files; null: nothing. */
async function damageOf(path: string, together: Together): Promise<string | null> {
  const seen = await together.gather('checkpoint seen', existsSync(path));
  const blind = seen.indexOf(false);
  if (blind > 0) {
    throw together.common(
      'HADAL_ERR_CONFIG',
      `[checkpoint] expected one directory for all processes, rank ${blind} has no ${path}; give --out a place on a file system that all hosts share`,
    );
  }
  const damages = await together.done('checkpoint verified', () => damageIn(path, together));
  return damages.find((damage) => damage !== null) ?? null;
}

/** What is wrong in a checkpoint: in a share of its files, and on rank 0 in how tensors lie in them; null: nothing. */
export async function damageIn(path: string, share: { rank: number; size: number }): Promise<string | null> {
  try {
    const { files } = await verifyManifest(path, { share });
    const hasState = files.some((file) => file.path.startsWith('optimizer'));
    if (share.rank === 0 && hasState) await (await TensorPieces.open(path, 'optimizer'))[Symbol.asyncDispose]();
    return null;
  } catch (error) {
    const isDamage = error instanceof HadalError && ['HADAL_ERR_CHECKPOINT', 'HADAL_ERR_FORMAT'].includes(error.code);
    if (isDamage) return error.message;
    throw error;
  }
}

/** What a checkpoint says beside the numbers, and what the user should know. */
interface Loaded {
  state: TrainState;
  notes: string[];
}

async function loadCheckpoint(path: string, stepper: TensorHolder, together: Together): Promise<Loaded> {
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
  const saved = savedTensors(stepper);
  await loadParameters(source, saved);
  await loadEma(path, saved);
  return { state: state.data, notes: await loadState(path, saved, together) };
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
