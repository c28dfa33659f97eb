// Runs updates of an optimizer on parameters whose gradients are given.
import { sizeOf } from '../../src/core/shape.js';
import { Graph } from '../../src/graph/graph.js';
import { cast } from '../../src/ops/elementwise.js';
import { applyEma } from '../../src/optim/ema.js';
import { applyOptimizer, type OptimizerConfig } from '../../src/optim/optimizer.js';
import type { OptimizedParameter, WorkingCopy } from '../../src/optim/update-state.js';
import { compile } from '../../src/runtime/compile.js';
import { toFloats } from '../support/float-bytes.js';
import { testDevice } from '../support/op-case.js';

export const plainConfig: OptimizerConfig = {
  kind: 'adamw',
  beta1: 0.9,
  beta2: 0.95,
  betaSchedule: null,
  eps: 1e-8,
  weightDecay: 0.1,
  l4Decay: 0,
  momentDtype: 'fp32',
  lionVariant: 'sign',
  momentum: 0.9,
  nesterov: true,
  newtonSchulzSteps: 5,
  muonLrAdjustment: 'match-rms-adamw',
  groups: [],
  emaDecay: null,
  steps: 10,
};

export interface Updates {
  parameters: readonly OptimizedParameter[];
  /** What each parameter begins with. */
  begin: Readonly<Record<string, ArrayLike<number>>>;
  /** Of each update, each parameter's. */
  grads: readonly Readonly<Record<string, ArrayLike<number>>>[];
  lr: number;
  gradScale?: number;
  /** Updates that are left out, from 0. */
  skipped?: readonly number[];
  copies?: ReadonlyMap<string, WorkingCopy>;
  productDtype?: 'fp32' | 'bf16';
}

/** Slots after each update, as numbers. */
export async function runUpdates(config: OptimizerConfig, given: Updates): Promise<Record<string, Float64Array>[]> {
  const { parameters, begin, grads, lr, gradScale = 1, skipped = [], copies = new Map(), productDtype } = given;
  const graph = new Graph();
  const inputs = parameters.map(({ name, shape }) => graph.input(`grad.${name}`, shape, 'fp32'));
  graph.predicated(cast(graph.input('isSound', [1], 'fp32'), 'int32'), () => {
    const rates = { lr: graph.input('lr', [1], 'fp32'), gradScale: graph.input('gradScale', [1], 'fp32') };
    applyOptimizer(graph, parameters, inputs, rates, config, copies, productDtype);
    const named = new Map(parameters.map((parameter) => [parameter.name, parameter]));
    if (config.emaDecay !== null) applyEma(graph, named, config.emaDecay);
  });
  const device = testDevice();
  const program = device.load(compile(graph, device.target));
  const slots = Object.fromEntries(
    program.slots.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
  );
  for (const { name } of parameters) await slots[name]!.write(Float32Array.from(begin[name]!));
  const seen: Record<string, Float64Array>[] = [];
  for (const [i, grad] of grads.entries()) {
    const one = (x: number) => Float32Array.of(x);
    const numbers = { lr: one(lr), gradScale: one(gradScale), isSound: one(skipped.includes(i) ? 0 : 1) };
    const arrays = parameters.map(({ name }) => [`grad.${name}`, Float32Array.from(grad[name]!)]);
    await device.run([{ program, slots, inputs: { ...numbers, ...Object.fromEntries(arrays) } }]);
    const now = Object.entries(slots).map(async ([name, tensor]) => {
      return [name, toFloats(await tensor.read(new Uint8Array(tensor.bytes)), tensor.dtype)] as const;
    });
    seen.push(Object.fromEntries(await Promise.all(now)));
  }
  for (const tensor of Object.values(slots)) tensor.dispose();
  return seen;
}

/** The same number everywhere. */
export const filled = ({ shape }: { shape: readonly number[] }, value: number) =>
  new Float32Array(sizeOf(shape)).fill(value);
