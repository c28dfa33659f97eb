// Sizes of a run that are left to the machine, decided from plans before anything is allocated.
import { isDeepStrictEqual } from 'node:util';
import { parseBytes } from '../core/bytes.js';
import { HadalError } from '../core/errors.js';
import { formatBytes } from '../core/format.js';
import type { PrecisionDType } from '../passes/narrow.js';
import { type Candidate, Candidates, divisorsOf } from './candidates.js';
import type { TrainConfig } from './config.js';
import { memoryKinds } from './events.js';
import { smallChunk, waysToFit } from './fit-ways.js';
import { hasSnapshot } from './memory.js';
import type { Planner, PlanOptions } from './planning.js';
import type { Room } from './room.js';
import type { SizedConfig } from './step-config.js';

/** A configuration whose sizes are decided; the budget is one in bytes. */
export type FittedConfig = SizedConfig & { memory: { budget: number } };

/** A run that fits, and how its programs are planned. */
export interface Fitted extends PlanOptions {
  config: FittedConfig;
  /** What was decided, a line each. */
  decisions: string[];
}

/** Of the largest micro-batch, `batch: 'auto'` takes so much. */
const autoShare = 0.8;
/** More rows than anyone trains on at once. */
const mostRows = 2 ** 20;
/** Of what is free, `budget: 'auto'` leaves so much to others. */
const margin = 1 / 8;
/** What the process grows by while data are prepared and programs planned, as measured. */
const growthBefore = 32 * 2 ** 20;

/**
 * Bytes that the process may take.
 *
 * @param given - bytes, a size such as '12GiB', or 'auto': what is free, less a margin
 * @throws HadalError HADAL_ERR_CONFIG for what is no size
 */
export function memoryBudget(given: number | string, { available, resident, processes }: Omit<Room, 'growth'>): number {
  const most = available + resident;
  if (given === 'auto') return Math.floor((available / processes + resident) * (1 - margin));
  return Math.min(parseBytes(given, "[train] field 'memory.budget'"), most);
}

/**
 * Decides what a configuration leaves open, so that the run keeps within its memory budget.
 *
 * @param place - among the processes that train together
 * @throws HadalError HADAL_ERR_CONFIG for a budget that is no size; as {@link fitting}
 */
export async function fitToMemory(
  config: TrainConfig,
  planner: Planner,
  dtype: PrecisionDType,
  room: Room,
  place = { rank: 0, size: 1 },
): Promise<Fitted> {
  const budget = memoryBudget(config.memory.budget, room);
  const base = room.resident + (room.growth > 0 ? growthBefore + room.growth : 0);
  const found = await fitting(config, new Candidates(planner, dtype, base, budget, place));
  const { accumulates, withinBytes } = found;
  const fitted = { ...found.config, memory: { ...config.memory, budget } };
  return { config: fitted, decisions: decisionsOf(config, fitted), accumulates, withinBytes };
}

/**
 * The run that a configuration asks for, where it fits: nothing is changed then. Else, of activation checkpointing and smaller
 * micro-batches, as far as these are left open, what costs least time.
 *
 * @throws HadalError HADAL_ERR_MEMORY with the cheapest ways to make it fit, when it cannot; HADAL_ERR_CONFIG for sizes that
 *   kernels cannot count
 */
export async function fitting(config: TrainConfig, candidates: Candidates): Promise<Candidate> {
  const found =
    config.batch === 'auto' ? await largestFitting(config, candidates) : await quickestFitting(config, candidates);
  if (found) return found;
  const oneIfOpen = (n: number | 'auto') => (n === 'auto' ? 1 : n);
  const [batch, gradAccumulationSteps] = [oneIfOpen(config.batch), oneIfOpen(config.gradAccumulationSteps)];
  throw await refusal(await candidates.of({ ...config, batch, gradAccumulationSteps }), candidates);
}

function decisionsOf(given: TrainConfig, fitted: FittedConfig): string[] {
  const { batch, gradAccumulationSteps: parts, activationCheckpointing: policy, checkpoint, memory } = fitted;
  const size = given.batch === 'auto' ? [`batch ${batch}`] : [];
  if (given.gradAccumulationSteps === 'auto') size.push(`gradAccumulationSteps ${parts}`);
  if (given.activationCheckpointing === 'auto') {
    size.push(`activationCheckpointing ${policy === 'auto' ? 'as much as the budget asks for' : policy}`);
  }
  if (memory.lossChunkRows !== given.memory.lossChunkRows) size.push(`lossChunkRows ${memory.lossChunkRows}`);
  return [
    ...(size.length > 0 ? [`memory has room for ${size.join(', ')}`] : []),
    ...(checkpoint.background === given.checkpoint.background
      ? []
      : ['training waits while a checkpoint is saved: memory has no room for a copy of it']),
  ];
}

/** The quickest run of the wished batch that fits. */
async function quickestFitting(config: TrainConfig, candidates: Candidates): Promise<Candidate | null> {
  const { gradAccumulationSteps: parts, batchRamp } = config;
  const batch = config.batch as number;
  // A ramp begins with one micro-batch or more, which has a row for each process.
  const { size } = candidates.place;
  const open = divisorsOf(batch).filter(
    (choice) => batch / choice <= (batchRamp?.from ?? batch) && batch / choice >= size,
  );
  let best: Candidate | null = null;
  for (const variant of variantsOf(config)) {
    // What recomputes, or lets training wait for checkpoints, is worth it for larger micro-batches only.
    const most = best?.config.gradAccumulationSteps ?? Number.POSITIVE_INFINITY;
    const choices = (parts === 'auto' ? open : [parts]).filter((choice) => choice < most);
    const found = await candidates.firstFitting(
      choices.map((gradAccumulationSteps) => ({ ...variant, batch, gradAccumulationSteps })),
    );
    if (found && (!best || found.seconds < best.seconds)) best = found;
  }
  return best;
}

/** The run of the most rows a micro-batch, less a share. */
async function largestFitting(config: TrainConfig, candidates: Candidates): Promise<Candidate | null> {
  const parts = config.gradAccumulationSteps === 'auto' ? 1 : config.gradAccumulationSteps;
  const { size } = candidates.place;
  for (const variant of variantsOf(config)) {
    const ofRows = (rows: number) => ({ ...variant, batch: rows * parts * size, gradAccumulationSteps: parts });
    const most = await mostThatFits((rows) => candidates.bytesOf(ofRows(rows)), candidates.budget);
    if (most > 0) return candidates.of(ofRows(Math.max(1, Math.floor(most * autoShare))));
  }
  return null;
}

/**
 * The most rows that fit, 0 where not one does. Memory grows nearly in a line with rows, so that few guesses are needed.
 *
 * @param bytesOf - what so many rows take
 */
export async function mostThatFits(bytesOf: (rows: number) => Promise<number>, budget: number): Promise<number> {
  let low = { rows: 0, bytes: 0 };
  let high = { rows: mostRows + 1, bytes: Number.POSITIVE_INFINITY };
  for (let rows = 1, tries = 0; high.rows - low.rows > 1; tries++) {
    const tried = { rows, bytes: await bytesOf(rows) };
    if (tried.bytes <= budget) low = tried;
    else high = tried;
    const slope = (high.bytes - low.bytes) / (high.rows - low.rows);
    const middle = high.rows > mostRows ? 2 * low.rows : (low.rows + high.rows) / 2;
    // Halved where nothing is known of the upper end, and from time to time, where it is no line after all.
    const next = Number.isFinite(slope) && tries % 4 < 3 ? low.rows + (budget - low.bytes) / slope : middle;
    rows = Math.min(Math.max(Math.floor(next), low.rows + 1), high.rows - 1);
  }
  return low.rows;
}

/** What a configuration leaves open beside sizes, from what costs least time on. */
function variantsOf(config: TrainConfig): TrainConfig[] {
  const isOpen = config.activationCheckpointing === 'auto';
  const kept: TrainConfig = isOpen ? { ...config, activationCheckpointing: 'none' } : config;
  const variants = [kept, withoutSnapshot(kept), ...(isOpen ? [config, withoutSnapshot(config)] : [])];
  return [...variants, ...variants.map(withSmallChunks)].filter(
    (variant, i, all) => !all.slice(0, i).some((earlier) => isDeepStrictEqual(variant, earlier)),
  );
}

/** Results do not hang on it, so that a snapshot which has no room is left out. */
const withoutSnapshot = (config: TrainConfig): TrainConfig =>
  hasSnapshot(config) ? { ...config, checkpoint: { ...config.checkpoint, background: false } } : config;

const withSmallChunks = (config: TrainConfig): TrainConfig =>
  config.memory.lossChunkRows === 'auto'
    ? { ...config, memory: { ...config.memory, lossChunkRows: smallChunk } }
    : config;

async function refusal(run: Candidate, candidates: Candidates): Promise<HadalError> {
  const { base, budget } = candidates;
  const { memory } = run;
  const kinds = memoryKinds.filter((kind) => memory[kind] > 0).map((kind) => `${kind} ${formatBytes(memory[kind])}`);
  const ways = await waysToFit(run, candidates);
  const advice = ways.length > 0 ? ways.join(', or ') : 'a smaller model, or a machine with more memory';
  return new HadalError(
    'HADAL_ERR_MEMORY',
    `[train] expected a run within ${formatBytes(budget)} of memory, this one needs ${formatBytes(memory.total)} (${kinds.join(', ')}, the process itself ${formatBytes(base)}); take ${advice}`,
  );
}
