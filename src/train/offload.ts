// Which state of a run lies in a file, and where that is.
import { statfsSync } from 'node:fs';
import { bytesOf } from '../core/dtype.js';
import { sizeOf } from '../core/shape.js';
import type { Model } from '../models/model.js';
import { BackingFile } from '../runtime/backing-file.js';
import type { IsOffloaded } from '../runtime/plan.js';
import type { TrainConfig } from './config.js';
import { slotKinds } from './slots.js';

/** What lies in a file. */
export interface OffloadConfig {
  /** Moments and averages of weights. */
  optimizer: boolean;
  /** Weights and their copies in 16 bits. */
  parameters: boolean;
}

/** What is smaller stays in memory: it would cost a disk's answer, and saves nothing. */
const leastBytes = 64 * 1024;

/** File systems that keep their files in memory, by number (Linux). */
const inMemory = new Map([
  [0x01021994, 'tmpfs'],
  [0x858458f6, 'ramfs'],
]);

/** Which slots of the programs of a run lie in a file. */
export function offloadedSlots(model: Model, { optimizer, parameters }: OffloadConfig): IsOffloaded {
  const kindOf = slotKinds(model);
  const isWanted = { parameter: parameters, copy: parameters, state: optimizer, gradient: false, passing: false };
  return ({ name, shape, dtype }) => bytesOf(dtype, sizeOf(shape)) >= leastBytes && isWanted[kindOf(name)];
}

/**
 * The file for what a run offloads, if it does.
 *
 * @param note - told what the user should know
 * @throws HadalError HADAL_ERR_IO when there can be no file in the directory
 */
export function openOffloadFile(
  { memory: { offload }, out }: Pick<TrainConfig, 'memory' | 'out'>,
  note: (message: string) => void,
): BackingFile | null {
  if (!offload.optimizer && !offload.parameters) return null;
  const directory = offload.directory ?? out;
  const file = new BackingFile(directory);
  const system = inMemory.get(statfsSync(directory).type);
  if (system) {
    note(
      `memory.offload: ${directory} lies on ${system}, which is memory: nothing is saved; set memory.offload.directory to one on a disk`,
    );
  }
  return file;
}
