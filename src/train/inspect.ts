// What training a model takes, found without allocating it.
import { readFile, stat } from 'node:fs/promises';
import { canLoadAddon } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { usableProcessors } from '../core/processors.js';
import { withFileErrors } from '../formats/file-error.js';
import { modelFromConfig } from '../models/families.js';
import { countModel, type ModelCounts } from '../models/inspect.js';
import type { Model } from '../models/model.js';
import type { PrecisionDType } from '../passes/narrow.js';
import { bestDType } from '../runtime/best-dtype.js';
import { isGguf, openModelSource } from '../session/model-source.js';
import type { MemoryTable } from './events.js';
import { planMemory } from './memory.js';
import { planPrograms } from './planning.js';
import { defaultStepConfig } from './step-config.js';

/** Bytes by kind that training takes, planned before anything is allocated. */
export interface TrainingMemory extends MemoryTable {
  /** Rows and tokens a row of the micro-batch it is planned for. */
  batch: number;
  seqLen: number;
  threads: number;
  /** Number format of the computation. */
  dtype: PrecisionDType;
  /** Processes that train together, whose memory each this is, and their ZeRO stage. */
  worldSize: number;
  zero: number;
}

/** What {@link inspect} finds. */
export interface Inspection extends ModelCounts {
  /** null where it was not asked for, or cannot be planned because no native binary loads here. */
  memory: TrainingMemory | null;
}

/** Options of {@link inspect}. */
export interface InspectOptions {
  /** Rows a micro-batch; 1 unless given. */
  batch?: number;
  /** Tokens a row; the longest the model takes, at most 4096, unless given. */
  seqLen?: number;
  /** Threads that kernels' workspaces are planned for; the machine's processors unless given. */
  threads?: number;
  /** Number format of the computation; 'auto' (default): what this machine trains fastest in. */
  dtype?: 'auto' | PrecisionDType;
  /** Processes that train together; 1 unless given. */
  worldSize?: number;
  /** ZeRO stage, 0 to 3, of these; 0 unless given. */
  zero?: number;
  /** Whether to plan a step for `memory`, which needs the native binary; unless given, where that loads. */
  plan?: boolean;
}

/**
 * Counts parameters, work and memory of a model without allocating it, so that the largest can be looked at.
 *
 * @param model - the contents of a Hugging Face config.json, or the path of one, of a model directory or of a GGUF file
 * @throws HadalError HADAL_ERR_CONFIG for a config that cannot be, HADAL_ERR_IO, HADAL_ERR_NATIVE
 */
export async function inspect(
  model: Record<string, unknown> | string,
  options: InspectOptions = {},
): Promise<Inspection> {
  const made = await openModel(model);
  const {
    batch = 1,
    seqLen = Math.min(made.maxPositions, 4096),
    threads = usableProcessors(),
    dtype = 'auto',
    worldSize = 1,
    zero = 0,
    plan = canLoadAddon(),
  } = options;
  if (seqLen > made.maxPositions) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[inspect] expected rows of at most ${made.maxPositions} tokens for this model, got ${seqLen}`,
    );
  }
  if (![0, 1, 2, 3].includes(zero) || !Number.isInteger(worldSize) || worldSize < 1) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[inspect] expected one process or more, of a ZeRO stage from 0 to 3, got ${worldSize} of stage ${zero}`,
    );
  }
  return {
    ...countModel(made, seqLen),
    memory: plan
      ? await planned(made, { batch, seqLen, threads, dtype: dtype === 'auto' ? bestDType() : dtype, worldSize, zero })
      : null,
  };
}

/** The model of a config's contents, or of a path as {@link inspect} takes it. */
export const openModel = async (model: Record<string, unknown> | string): Promise<Model> =>
  typeof model === 'string' ? await readModel(model) : modelFromConfig(model);

async function readModel(path: string): Promise<Model> {
  const info = await withFileErrors(`read ${path}`, () => stat(path));
  if (info.isDirectory() || isGguf(path)) return (await openModelSource(path)).model;
  const text = await withFileErrors(`read ${path}`, () => readFile(path));
  return modelFromConfig(parseJson(text, { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' }), path);
}

async function planned(model: Model, sizes: Omit<TrainingMemory, keyof MemoryTable>): Promise<TrainingMemory> {
  const step = defaultStepConfig(sizes, sizes.dtype, sizes);
  const plans = await planPrograms(model, step, { target: sizes.threads, accumulates: false });
  return {
    ...sizes,
    ...planMemory(model, plans, { gradAccumulationSteps: 1, snapshot: false, base: null, budget: null }),
  };
}
