// Processes that hold state without programs: what lies where is all that checkpoints ask.
import { sizeOf } from '../../src/core/shape.js';
import { parametersOf } from '../../src/models/model.js';
import { type DistConfig, residualPrefix } from '../../src/optim/dist-config.js';
import { emaPrefix } from '../../src/optim/ema.js';
import { shardOf, shardPrefix } from '../../src/optim/zero.js';
import type { Device } from '../../src/runtime/device.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import type { TrainState } from '../../src/train/checkpoint.js';
import { type SavedTensor, savedTensors, type TensorHolder } from '../../src/train/saved-tensors.js';
import { stepConfig, tinyModel } from './tiny.js';
import { dist } from './tiny-ranks.js';

export interface Setup {
  worldSize: number;
  zero: number;
  /** Whether running means are kept, and what compression left. */
  hasMeans?: boolean;
  hasResiduals?: boolean;
}

const model = tinyModel();
const parameters = parametersOf(model);

/** Number i of a tensor, of a process where each has its own; what was never filled has none of these. */
function numberOf(name: string, i: number, rank: number): number {
  let hash = 7;
  for (const c of name) hash = (hash * 31 + c.charCodeAt(0)) % 65_521;
  return ((hash + i) % 4093) + 1 + (name.startsWith(residualPrefix) ? 5000 * (rank + 1) : 0);
}

/** What one process holds, all zeros. */
export function holderOf(
  device: Device,
  rank: number,
  { worldSize, zero, hasMeans, hasResiduals }: Setup,
): TensorHolder {
  const place: DistConfig | null = worldSize === 1 ? null : { ...dist(rank, worldSize), zero };
  const tensors = new Map<string, Tensor>();
  const stateSlots: string[] = [];
  const add = (slot: string, shape: readonly number[]) => tensors.set(slot, device.allocate(shape, 'fp32'));
  const addState = (slot: string, shape: readonly number[]) => {
    add(slot, shape);
    stateSlots.push(slot);
  };
  addState('state/updates', [1]);
  for (const { name, shape, trainable } of parameters.values()) {
    const isSharded = trainable && place !== null && zero > 0;
    const held = isSharded ? [shardOf(sizeOf(shape), place).size] : shape;
    add(isSharded ? shardPrefix + name : name, held);
    if (isSharded && zero < 3) add(name, shape);
    if (!trainable) continue;
    for (const kind of ['adam.m/', 'adam.v/', ...(hasMeans ? [emaPrefix] : [])]) addState(kind + name, held);
    if (hasResiduals) addState(residualPrefix + name, shape);
  }
  return { model, parameters, stateSlots, tensors, device, config: { ...stepConfig(2, 16), dist: place } };
}

/** The numbers of what a process has of a tensor, as they are to be. */
export function expectedOf({ name, range }: SavedTensor, rank: number): Float32Array {
  return Float32Array.from({ length: range.count }, (_, i) => numberOf(name, range.first + i, rank));
}

export async function fill(holder: TensorHolder, rank: number): Promise<void> {
  for (const saved of savedTensors(holder).values()) await saved.held.write(expectedOf(saved, rank));
}

/** What a process has of a tensor. */
export async function numbersIn({ held, range }: SavedTensor): Promise<Float32Array> {
  return (await held.toFloat32()).subarray(0, range.count);
}

export const stateAt = (step: number, worldSize: number, zero: number): TrainState => ({
  ...{
    step,
    tokens: 10 * step,
    skippedSteps: 0,
    evalLoss: null,
    seed: 1,
    threads: 1,
    instructionSet: 'any',
    dtype: 'fp32',
  },
  cursor: { version: 1, token: 10 * step, epoch: 0, seed: 1, documents: 1, tokensPerEpoch: 100 },
  watch: { lrFactor: 1, losses: [], skippedInARow: 0, holding: [] },
  ...(worldSize > 1 && { dist: { worldSize, zero } }),
});
