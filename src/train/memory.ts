// What training takes of memory, by kind, from plans alone.
import { bytesOf } from '../core/dtype.js';
import { residentBytes } from '../core/memory.js';
import { sizeOf } from '../core/shape.js';
import type { Model } from '../models/model.js';
import { shardPrefix } from '../optim/zero.js';
import type { Device } from '../runtime/device.js';
import type { TensorSpec } from '../runtime/plan.js';
import { type MemoryKind, type MemoryTable, memoryKinds, type StepEvent } from './events.js';
import type { Plans } from './planning.js';
import { type SlotKind, slotKinds } from './slots.js';
import type { SizedConfig } from './step-config.js';

/** What memory depends on beside the programs. */
export interface MemoryOptions {
  /** Micro-batches an update. */
  gradAccumulationSteps: number;
  /** Whether checkpoints are saved from a copy of what they hold. */
  snapshot: boolean;
  /** Bytes of the process beside what is planned; null: not known. */
  base: number | null;
  /** Bytes that the process may take; null: no matter. */
  budget: number | null;
}

/** What a process grows by once it trains, as measured: a thread that makes batches, OpenMP's, code that the first steps load. */
export const growthInTraining = 32 * 2 ** 20;

/** What JavaScript's collector leaves lying of tensors that were written, as measured. */
const uncollected = 32 * 2 ** 20;

/** Micro-batches that the loader makes ahead of time, and the one that is made. */
const batchesAhead = 3;

/** Whether checkpoints are saved from a copy of what they hold while training goes on; the last one never is. */
export const hasSnapshot = ({ checkpoint, steps }: Pick<SizedConfig, 'checkpoint' | 'steps'>): boolean =>
  checkpoint.background && checkpoint.every > 0 && checkpoint.every < steps;

/**
 * Memory that programs take together: state, each slot once, and one arena of the largest's size.
 *
 * @param plans - those of updates and of evaluation among them
 */
export function planMemory(
  model: Model,
  plans: Plans,
  { gradAccumulationSteps, snapshot, base, budget }: MemoryOptions,
): MemoryTable {
  const programs = Object.values(plans);
  const kinds = Object.fromEntries(memoryKinds.map((kind) => [kind, 0])) as Record<MemoryKind, number>;
  const made = new Set(programs.flatMap(({ outputs }) => outputs.map(({ name }) => name)));
  const slotKind = slotKinds(model);
  let [saved, largest, offloaded] = [0, 0, 0];
  const slots = new Map(programs.flatMap((program) => program.slots.map((slot) => [slot.name, slot])));
  for (const spec of slots.values()) {
    const isGathered = slots.has(shardPrefix + spec.name);
    const kind = made.has(spec.name) ? 'passing' : isGathered ? 'copy' : slotKind(spec.name);
    if (kind === 'parameter' || kind === 'state') {
      saved += dense(spec);
      largest = Math.max(largest, dense(spec));
    }
    if (spec.offloaded) offloaded += blockBytes(dense(spec));
    else kinds[memoryOf[kind]] += blockBytes(dense(spec));
  }
  const fullest = programs.reduce((most, program) => (program.arenaBytes > most.arenaBytes ? program : most));
  kinds.gradients += fullest.atPeak.gradients;
  kinds.workspace += fullest.atPeak.workspace;
  kinds.activations += blockBytes(fullest.arenaBytes) - fullest.atPeak.gradients - fullest.atPeak.workspace;
  const allocated = sum(Object.values(kinds));

  const batch = Math.max(...programs.map(({ inputs }) => sum(inputs.map(dense))));
  kinds.buffers += batch * (gradAccumulationSteps + batchesAhead);
  kinds.buffers += sum(
    programs.map(({ words, params, constants }) => words.byteLength + params.byteLength + constants.byteLength),
  );
  kinds.buffers += Math.max(...programs.map(({ offloadWindowBytes }) => offloadWindowBytes));
  // Otherwise a checkpoint is saved tensor by tensor; those before may not be collected yet.
  // A GPU's copy is the host's memory.
  if (fullest.target.backend !== 'cpu') kinds.snapshot = 0;
  else kinds.snapshot = snapshot ? saved : Math.min(saved, largest + Math.min(largest, uncollected));
  const planned = sum(Object.values(kinds));
  return { ...kinds, planned, allocated, saved, offloaded, base, total: planned + (base ?? 0), budget };
}

/** Which kind of memory a slot is. */
const memoryOf = {
  parameter: 'weights',
  copy: 'weights',
  gradient: 'gradients',
  passing: 'buffers',
  state: 'optimizer',
} as const satisfies Record<SlotKind, MemoryKind>;

/** What the process takes now. */
export function memoryInUse(
  device: Device,
): Pick<StepEvent, 'residentBytes' | 'allocatedBytes' | 'allocatedPeakBytes'> {
  const { live, peak } = device.native.memory();
  return { residentBytes: residentBytes().now, allocatedBytes: live, allocatedPeakBytes: peak };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

const dense = ({ dtype, shape }: TensorSpec): number => bytesOf(dtype, sizeOf(shape));

/** What a block takes: whole pages, one at least (native/core/storage.cpp). */
export const blockBytes = (bytes: number): number => Math.max(1, Math.ceil(bytes / 4096)) * 4096;
