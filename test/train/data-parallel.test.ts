// Several processes on shares of a batch do what one does on all of it: ranks of one process, over NCCL's stand-in.
import { describe, expect, it } from 'vitest';
import type { Batch } from '../../src/data/batch.js';
import type { DistConfig } from '../../src/optim/dist-config.js';
import type { Plan } from '../../src/runtime/plan.js';
import { type CompileTask, compileProgram } from '../../src/train/compile-worker.js';
import type { StepConfig } from '../../src/train/step.js';
import type { Stepper, UpdateInputs } from '../../src/train/stepper.js';
import { relativeNorm } from '../support/compare.js';
import { stepConfig, tinyBatch, tinyModel, tinyStepper, updateInputs } from './tiny.js';
import { dist, joinRows, type Ranks, tinyRanks } from './tiny-ranks.js';

const seqLen = 16;
/** Rows of unequal lengths, one of them without any label. */
const lengths = [16, 5, 11, 2, 9, 1];
const rowsOf = (step: number) => lengths.map((length, i) => tinyBatch(100 * step + i, [length], seqLen));

/** The rows of a window, as equal shares: micro-batch by micro-batch, rank by rank. */
function shares(rows: readonly Batch[], ranks: number, microBatches: number): Batch[][] {
  const each = rows.length / ranks / microBatches;
  return Array.from({ length: ranks }, (_, rank) =>
    Array.from({ length: microBatches }, (_, micro) => {
      const first = (micro * ranks + rank) * each;
      return joinRows(rows.slice(first, first + each));
    }),
  );
}

async function firstMoments({ tensors }: Stepper): Promise<Float32Array> {
  const parts: Float32Array[] = [];
  for (const [name, tensor] of tensors) if (name.startsWith('adam.m/')) parts.push(await tensor.toFloat32());
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

async function weightsOf({ parameters, tensors }: Stepper): Promise<Float32Array[]> {
  const found: Float32Array[] = [];
  for (const name of parameters.keys()) found.push((await tensors.get(name)?.toFloat32()) as Float32Array);
  return found;
}

const changed = (config: StepConfig, change: Partial<DistConfig>, rank: number, worldSize: number): StepConfig => ({
  ...config,
  dist: { ...dist(rank, worldSize), ...change },
});

/** Ranks with shares of six rows a window. */
const ranksOf = (worldSize: number, microBatches: number, change: Partial<DistConfig> = {}, dtype?: 'bf16' | 'fp16') =>
  tinyRanks(
    worldSize,
    (rank) => changed(stepConfig(6 / worldSize / microBatches, seqLen, dtype), change, rank, worldSize),
    {
      accumulates: microBatches > 1,
    },
  );

const updateAll = (ranks: Ranks, windows: readonly (readonly Batch[])[], inputs: UpdateInputs) =>
  ranks.all((stepper, rank) => stepper.update(windows[rank] as readonly Batch[], inputs));

describe('an update of several ranks', () => {
  for (const [worldSize, microBatches, change] of [
    [2, 1, {}],
    [3, 1, { bucketBytes: 1024 }],
    [2, 3, {}],
    [3, 2, { bucketBytes: 4096 }],
    [2, 3, { overlap: false }],
  ] as const) {
    const how = `${microBatches} micro-batches each, ${JSON.stringify(change)}`;
    it(`is that of one process: ${worldSize} ranks, ${how}`, async () => {
      using one = await tinyStepper(stepConfig(6, seqLen));
      using ranks = await ranksOf(worldSize, microBatches, change);
      for (let step = 0; step < 3; step++) {
        const rows = rowsOf(step);
        const whole = await one.stepper.update([joinRows(rows)], updateInputs(step));
        const results = await updateAll(ranks, shares(rows, worldSize, microBatches), updateInputs(step));
        for (const result of results) {
          for (const key of ['loss', 'mtpLoss', 'balanceLoss', 'gradNorm', 'expertImbalance'] as const) {
            expect(Math.abs((result[key] as number) / (whole[key] as number) - 1), key).toBeLessThan(2e-6);
          }
          expect(result.tokens).toBe(lengths.reduce((sum, length) => sum + length, 0));
        }
        if (step > 0) continue;
        // The first moments of the first update are the gradients, times a factor.
        const gradients = await firstMoments(one.stepper);
        for (const stepper of ranks.steppers)
          expect(relativeNorm(await firstMoments(stepper), gradients)).toBeLessThan(1e-6);
      }
      const [first, ...others] = await Promise.all(ranks.steppers.map(weightsOf));
      for (const other of others) expect(other).toEqual(first);
    });
  }

  it.each(['bf16', 'fp16'] as const)('in %s leaves the same bits on all ranks, and repeats', async (dtype) => {
    const run = async () => {
      using ranks = await ranksOf(3, 2, {}, dtype);
      for (let step = 0; step < 2; step++) await updateAll(ranks, shares(rowsOf(step), 3, 2), updateInputs(step));
      return await Promise.all(ranks.steppers.map(weightsOf));
    };
    const [first, ...others] = [...(await run()), ...(await run())];
    for (const other of others) expect(other).toEqual(first);
  });

  it('counts padding rows nowhere', async () => {
    using one = await tinyStepper(stepConfig(5, seqLen));
    using ranks = await tinyRanks(3, (rank) => changed(stepConfig(2, seqLen), {}, rank, 3));
    const rows = rowsOf(0).slice(0, 5);
    const padding = tinyBatch(9, [0], seqLen);
    const whole = await one.stepper.update([joinRows(rows)], updateInputs(0));
    const windows = shares([...rows, padding], 3, 1);
    for (const result of await updateAll(ranks, windows, updateInputs(0))) {
      for (const key of ['loss', 'mtpLoss', 'balanceLoss', 'gradNorm', 'expertImbalance'] as const)
        expect(Math.abs((result[key] as number) / (whole[key] as number) - 1), key).toBeLessThan(2e-6);
    }
  });

  it('is skipped by all when the gradient of one overflows', async () => {
    using ranks = await ranksOf(2, 1);
    const before = await weightsOf(ranks.steppers[0] as Stepper);
    const windows = shares(rowsOf(0), 2, 1);
    // Rank 1 alone makes gradients that are not finite.
    const results = await ranks.all((stepper, rank) =>
      stepper.update(windows[rank] as Batch[], updateInputs(0, rank === 1 ? { mtpWeight: Number.NaN } : {})),
    );
    for (const { skipped, overflowed } of results) expect([skipped, overflowed]).toEqual([true, true]);
    for (const stepper of ranks.steppers) expect(await weightsOf(stepper)).toEqual(before);
  });

  it('tells all that one wants to stop', async () => {
    using ranks = await ranksOf(3, 1);
    const windows = shares(rowsOf(0), 3, 1);
    const stops = (asking: boolean) =>
      ranks.all((stepper, rank) =>
        stepper.update(windows[rank] as Batch[], updateInputs(0, { stops: asking && rank === 2 })),
      );
    expect((await stops(false)).map((result) => result.stops)).toEqual([false, false, false]);
    expect((await stops(true)).map((result) => result.stops)).toEqual([true, true, true]);
  });
});

it('gradients travel while the backward pass goes on, and after it where they are not to', async () => {
  const planned = async (change: Partial<DistConfig>, program: 'whole' | 'last') => {
    const step = changed(stepConfig(2, seqLen), { bucketBytes: 2048, ...change }, 0, 2);
    const task = { model: tinyModel().toHuggingFace(), program, step, target: 1 };
    const result = await compileProgram(task);
    if (!('value' in result)) throw new Error(JSON.stringify(result));
    return result.value.instructions;
  };
  for (const program of ['whole', 'last'] as const) {
    const early = await planned({}, program);
    const sums = early.flatMap(({ op, queue }, i) => (op === 'all-reduce' && queue === 'communication' ? [i] : []));
    const backwardEnd = early.findLastIndex(({ op }) => op === 'embedding-accumulate');
    expect(backwardEnd).toBeGreaterThan(0);
    // All but the last buckets and the norm's are on their way before the backward pass ends.
    expect(sums.filter((i) => i < backwardEnd).length, program).toBeGreaterThanOrEqual(sums.length - 4);
    expect(sums.length).toBeGreaterThan(6);
    const late = await planned({ overlap: false }, program);
    const after = late.flatMap(({ op }, i) => (op === 'all-reduce' ? [i] : []));
    const before = after.filter((i) => i < late.findLastIndex(({ op }) => op === 'embedding-accumulate'));
    // The counts of the rows, in the first program of an update.
    expect(before.length).toBe(program === 'whole' ? 1 : 0);
  }
});

it('has nothing left to wait for when the update of the weights begins, which a lost process then cannot cut off', async () => {
  for (const kind of ['bf16', 'int8'] as const) {
    const compression = { ...dist(0, 2).compression, kind };
    const step = changed(stepConfig(2, seqLen), { compression }, 0, 2);
    const result = await compileProgram({ model: tinyModel().toHuggingFace(), program: 'last', step, target: 1 });
    if (!('value' in result)) throw new Error(JSON.stringify(result));
    const { instructions } = result.value;
    const update = instructions.findIndex(({ op }) => op === 'adamw');
    expect(update).toBeGreaterThan(0);
    const later = instructions.slice(update).filter(({ queue }) => queue === 'communication');
    expect(later.map(({ op }) => op)).toEqual([]);
  }
});

it('calls the same collectives however many threads processes have, where what is recomputed was left open', async () => {
  const planned = async (threads: number, task: Pick<CompileTask, 'withinBytes' | 'candidate'>) => {
    const auto: StepConfig = { ...stepConfig(2, 64), activationCheckpointing: 'auto' };
    const step = changed(auto, { bucketBytes: 1024 }, 0, 2);
    const result = await compileProgram({
      ...{ model: tinyModel().toHuggingFace(), program: 'whole', step, target: threads },
      ...task,
    });
    if (!('value' in result)) throw new Error(JSON.stringify(result));
    return result.value;
  };
  const collectives = ({ instructions }: Plan) =>
    instructions.flatMap(({ queue, op, bytesRead }) => (queue === 'communication' ? [`${op} ${bytesRead}`] : []));
  const withinBytes = (await planned(1, {})).arenaBytes * 0.9;
  const first = await planned(1, { withinBytes });
  // Left to itself, a process whose threads take memory for themselves recomputes more: other gradients are ready first.
  expect(collectives(await planned(8, { withinBytes }))).not.toEqual(collectives(first));
  const told = await planned(8, { candidate: first.candidate as number });
  expect(collectives(told)).toEqual(collectives(first));
});
