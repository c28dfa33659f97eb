// ZeRO does what training in several processes does without it: ranks of one process, over NCCL's stand-in.
import { describe, expect, it } from 'vitest';
import { sizeOf } from '../../src/core/shape.js';
import type { Batch } from '../../src/data/batch.js';
import { parametersOf } from '../../src/models/model.js';
import { asShards } from '../../src/optim/zero.js';
import type { PrecisionDType } from '../../src/passes/narrow.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { compileProgram } from '../../src/train/compile-worker.js';
import { resolveTrainConfig } from '../../src/train/config.js';
import type { Plans } from '../../src/train/planning.js';
import type { StepConfig } from '../../src/train/step.js';
import type { Stepper, UpdateResult } from '../../src/train/stepper.js';
import { relativeNorm } from '../support/compare.js';
import { stepConfig, tinyBatch, tinyConfig, tinyModel, updateInputs } from './tiny.js';
import { dist, joinRows, type Ranks, tinyRanks } from './tiny-ranks.js';

const tinyParameters = parametersOf(tinyModel());
const seqLen = 16;
const lengths = [16, 5, 11, 2, 9, 1, 16, 7, 3, 12, 4, 8];

interface How {
  worldSize: number;
  /** That are compared with none. */
  stages?: readonly number[];
  microBatches?: number;
  dtype?: PrecisionDType;
  /** Of the step's configuration. */
  change?: Partial<StepConfig>;
  optimizer?: Partial<StepConfig['optimizer']>;
}

/** The rows of a step, micro-batch by micro-batch, rank by rank. */
function windowsOf(step: number, { worldSize, microBatches = 1 }: How): Batch[][] {
  const rows = lengths.map((length, i) => tinyBatch(100 * step + i, [length], seqLen));
  const each = rows.length / worldSize / microBatches;
  return Array.from({ length: worldSize }, (_, rank) =>
    Array.from({ length: microBatches }, (_, micro) => {
      const first = (micro * worldSize + rank) * each;
      return joinRows(rows.slice(first, first + each));
    }),
  );
}

function configOf(how: How, zero: number, rank: number): StepConfig {
  const { worldSize, microBatches = 1, dtype = 'fp32', change, optimizer } = how;
  const base = stepConfig(lengths.length / worldSize / microBatches, seqLen, dtype);
  const sharing = { ...dist(rank, worldSize), zero, bucketBytes: 8192 };
  return { ...base, ...change, optimizer: { ...base.optimizer, steps: 4, ...optimizer }, dist: sharing };
}

const ranksOf = (how: How, zero: number) =>
  tinyRanks(how.worldSize, (rank) => configOf(how, zero, rank), { accumulates: (how.microBatches ?? 1) > 1 });

/** All numbers of a kind of slot: those of rank 0, or where they lie in shards, all ranks'. */
async function wholes({ steppers }: Ranks, kind: string): Promise<Float32Array> {
  const [first] = steppers as [Stepper];
  const isSharded = first.config.dist?.zero !== 0;
  const parts: number[] = [];
  for (const [name, { shape, trainable }] of first.parameters) {
    if (!trainable) continue;
    const slot = kind === 'shard' && !isSharded ? name : `${kind}/${name}`;
    const tensors = (isSharded ? steppers : [first]).map((stepper) => stepper.tensors.get(slot) as Tensor);
    const numbers = (await Promise.all(tensors.map((tensor) => tensor.toFloat32()))).flatMap((some) => [...some]);
    // What stands behind the end is zeros, and stays so.
    expect(numbers.slice(sizeOf(shape)).every((x) => x === 0)).toBe(true);
    parts.push(...numbers.slice(0, sizeOf(shape)));
  }
  return Float32Array.from(parts);
}

const momentOf = ({ kind }: StepConfig['optimizer']) =>
  ({ adamw: 'adam.m', lion: 'lion.m', sgd: 'sgd.momentum', muon: 'muon.momentum' })[kind];

/** What updates tell, the first gradients (up to a factor), what is left, and what evaluations see of it. */
async function run(how: How, zero: number) {
  using ranks = await ranksOf(how, zero);
  const { batch, optimizer } = (ranks.steppers[0] as Stepper).config;
  const told: UpdateResult[] = [];
  let gradients: Float32Array = new Float32Array();
  for (let step = 0; step < 3; step++) {
    const windows = windowsOf(step, how);
    const results = await ranks.all((stepper, rank) => stepper.update(windows[rank] as Batch[], updateInputs(step)));
    for (const { loss, gradNorm, skipped } of results)
      expect([loss, gradNorm, skipped]).toEqual([results[0]?.loss, results[0]?.gradNorm, false]);
    told.push(results[0] as UpdateResult);
    if (step === 0) gradients = await wholes(ranks, momentOf(optimizer));
  }
  const held = tinyBatch(5, lengths.slice(0, batch), seqLen);
  const evaluate = (stepper: Stepper) => stepper.evaluate(held);
  const evalLosses = await ranks.all(evaluate);
  const meanLosses =
    optimizer.emaDecay === null ? [0] : await ranks.all((stepper) => stepper.withMeans(() => evaluate(stepper)));
  // Nothing of the means is left.
  expect(new Set([...evalLosses, ...(await ranks.all(evaluate))]).size).toBe(1);
  const [evalLoss, meanLoss] = [evalLosses[0] as number, meanLosses[0] as number];
  return { told, gradients, weights: await wholes(ranks, 'shard'), evalLoss, meanLoss };
}

const clip = { norm: 0.5, value: 0.02, adaptive: { quantile: 0.5, window: 3, factor: 0.9 } };
const means = { emaDecay: 0.5 };
const cases: [string, How][] = [
  ['2 ranks, gradients clipped, means of weights', { worldSize: 2, change: { clip }, optimizer: means }],
  ['3 ranks, accumulated, Lion', { worldSize: 3, stages: [2], microBatches: 2, optimizer: { kind: 'lion' } }],
  ['4 ranks, accumulated, SGD', { worldSize: 4, stages: [1, 3], microBatches: 3, optimizer: { kind: 'sgd' } }],
  [
    '3 ranks, bf16, computed again, means of weights',
    { worldSize: 3, stages: [2, 3], dtype: 'bf16', change: { activationCheckpointing: 'sqrt' }, optimizer: means },
  ],
  ['2 ranks, fp16, accumulated', { worldSize: 2, stages: [1, 3], microBatches: 3, dtype: 'fp16' }],
];

const apart = (a: number, b: number) => (a === b ? 0 : Math.abs(a / b - 1));

describe('ZeRO', () => {
  it.each(cases)(
    'is plain data-parallel training: %s',
    async (_, how) => {
      // Copies in 16 bits may round an ulp of the weights to their neighbours.
      const bound = how.dtype === undefined ? 5e-6 : 1e-3;
      const plain = await run(how, 0);
      for (const zero of how.stages ?? [1, 2, 3]) {
        const { told, gradients, weights, evalLoss, meanLoss } = await run(how, zero);
        for (const [step, result] of told.entries()) {
          for (const key of ['loss', 'gradNorm', 'clippedNorm'] as const)
            expect(apart(result[key], plain.told[step]?.[key] as number), `${key}, ${zero}`).toBeLessThan(bound);
        }
        expect(gradients.length).toBe(plain.gradients.length);
        expect(relativeNorm(gradients, plain.gradients)).toBeLessThan(1e-6);
        expect(relativeNorm(weights, plain.weights)).toBeLessThan(bound);
        expect(apart(evalLoss, plain.evalLoss)).toBeLessThan(bound);
        expect(apart(meanLoss, plain.meanLoss)).toBeLessThan(bound);
      }
      if (how.optimizer?.emaDecay) expect(plain.meanLoss).not.toBe(plain.evalLoss);
    },
    60_000,
  );

  it.each([1, 3])('of stage %i leaves an update out on all ranks where the gradient of one overflows', async (zero) => {
    const how: How = { worldSize: 2, dtype: 'fp16' };
    using ranks = await ranksOf(how, zero);
    const windows = windowsOf(0, how);
    const before = [await wholes(ranks, 'shard'), await wholes(ranks, 'adam.m')];
    const results = await ranks.all((stepper, rank) =>
      stepper.update(windows[rank] as Batch[], updateInputs(0, rank === 1 ? { mtpWeight: Number.NaN } : {})),
    );
    for (const { skipped, overflowed } of results) expect([skipped, overflowed]).toEqual([true, true]);
    expect([await wholes(ranks, 'shard'), await wholes(ranks, 'adam.m')]).toEqual(before);
    const after = await ranks.all((stepper, rank) => stepper.update(windows[rank] as Batch[], updateInputs(1)));
    for (const { skipped, lossScale } of after)
      expect([skipped, lossScale]).toEqual([false, (results[0]?.lossScale as number) / 2]);
  });

  it('takes less memory stage by stage, as planned', async () => {
    const bytesOf = async (zero: number) => {
      const step = configOf({ worldSize: 4, microBatches: 3 }, zero, 1);
      const task = { model: tinyModel().toHuggingFace(), step, target: 1 };
      const plans: Plans = {};
      for (const program of ['first', 'next', 'last', 'evaluation'] as const) {
        const planned = await compileProgram({ ...task, program });
        if (!('value' in planned)) throw new Error(JSON.stringify(planned));
        plans[program] = planned.value;
      }
      const slots = new Map(Object.values(plans).flatMap((plan) => plan.slots.map((slot) => [slot.name, slot])));
      const total = (isOne: (name: string) => boolean) =>
        [...slots.values()].reduce((sum, { name, shape }) => sum + (isOne(name) ? sizeOf(shape) : 0), 0);
      return {
        optimizer: total((name) => name.startsWith('adam.')),
        gradients: total((name) => name.startsWith('gradient/')),
        weights: total((name) => name.startsWith('shard/') || tinyParameters.has(name)),
      };
    };
    const numbers = [...tinyParameters.values()].filter(({ trainable }) => trainable).map(({ shape }) => sizeOf(shape));
    const whole = numbers.reduce((sum, size) => sum + size, 0);
    const share = numbers.reduce((sum, size) => sum + Math.ceil(size / 4), 0);
    const other = [...tinyParameters.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0) - whole;
    expect(await bytesOf(0)).toEqual({ optimizer: 2 * whole, gradients: whole, weights: whole + other });
    expect(await bytesOf(1)).toEqual({ optimizer: 2 * share, gradients: whole, weights: whole + share + other });
    expect(await bytesOf(2)).toEqual({ optimizer: 2 * share, gradients: share, weights: whole + share + other });
    expect(await bytesOf(3)).toEqual({ optimizer: 2 * share, gradients: share, weights: share + other });
  });

  it('is refused with Muon, and with compression that is no rounding', () => {
    const config = { out: 'run', model: { config: tinyConfig }, data: { sources: ['text.txt'] } };
    const resolve = (change: object) => () =>
      resolveTrainConfig({ ...config, steps: 1, batch: 4, seqLen: 16, ...change });
    expect(resolve({ optimizer: { kind: 'muon' }, dist: { zero: 1 } })).toThrow(/'dist.zero' expected 0 for muon/);
    expect(resolve({ dist: { zero: 2, compression: { kind: 'topk' } } })).toThrow(/'dist.zero' expected 0 with .*topk/);
    expect(resolve({ dist: { zero: 3, compression: { kind: 'bf16' } } })).not.toThrow();
    const parameters = [...tinyParameters.values()];
    const { optimizer } = stepConfig(2, seqLen);
    const sharing = { ...dist(0, 2), zero: 1 };
    expect(() => asShards(parameters, { ...optimizer, kind: 'muon' }, sharing)).toThrow(/\[zero\] .* muon/);
  });
});
