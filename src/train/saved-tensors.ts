// The tensors that a checkpoint holds, and what this process has of each.
import type { DType } from '../core/dtype.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { SafetensorsDType } from '../formats/safetensors.js';
import { powerSgdPrefix } from '../optim/compression/power-sgd.js';
import { residualScaleSlot } from '../optim/compression/residuals.js';
import { residualPrefix } from '../optim/dist-config.js';
import { emaPrefix } from '../optim/ema.js';
import { shardOfSlot, shardPrefix } from '../optim/zero.js';
import type { Tensor } from '../runtime/tensor.js';
import type { TensorShare } from '../session/open-parameters.js';
import type { Stepper } from './stepper.js';

/** What holds tensors to save. */
export type TensorHolder = Pick<Stepper, 'model' | 'parameters' | 'stateSlots' | 'tensors' | 'config' | 'device'>;

/** A tensor under the name that checkpoints know it by. */
export interface SavedTensor extends TensorShare {
  readonly name: string;
  /** How its numbers are written in files. */
  readonly format: SafetensorsDType;
  /** `mean`: of a parameter; both are of models within the checkpoint, `state` is not. */
  readonly kind: 'parameter' | 'mean' | 'state';
  /** Whether all processes hold the same, a share each, or each one of its own. */
  readonly spread: 'same' | 'shares' | 'own';
}

const formats: Record<DType, SafetensorsDType> = { fp32: 'F32', bf16: 'BF16', fp16: 'F16', int32: 'I32', uint8: 'U8' };

/** Slots that compression carries on. */
export const isOfCompression = (name: string): boolean =>
  name.startsWith(residualPrefix) || name.startsWith(powerSgdPrefix) || name === residualScaleSlot;

/** By name: parameters, and state by its slots. The same on all processes but for what they hold. */
export function savedTensors({
  parameters,
  stateSlots,
  tensors,
  config,
  device,
}: TensorHolder): Map<string, SavedTensor> {
  const { dist } = config;
  const saved = new Map<string, SavedTensor>();
  const add = (name: string, slot: string, kind: SavedTensor['kind']): void => {
    const held = tensors.get(slot) as Tensor;
    const shard = isOfCompression(name) ? null : shardOfSlot(slot, parameters, dist);
    const spread = name.startsWith(residualPrefix) ? 'own' : shard ? 'shares' : 'same';
    const shape: Shape = shard ? (parameters.get(shard.parameter)?.shape as Shape) : held.shape;
    const range = shard ? { first: shard.begin, count: shard.end - shard.begin } : { first: 0, count: sizeOf(shape) };
    const { dtype } = held;
    saved.set(name, { name, kind, spread, device, dtype, format: formats[dtype], shape, held, range });
  };
  for (const name of parameters.keys())
    add(name, tensors.has(shardPrefix + name) ? shardPrefix + name : name, 'parameter');
  for (const slot of stateSlots) {
    if (!slot.startsWith(shardPrefix)) add(slot, slot, slot.startsWith(emaPrefix) ? 'mean' : 'state');
  }
  return saved;
}
