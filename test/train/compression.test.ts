// Training with compressed gradients: ranks of one process. scripts/accept/compression.mjs trains longer, beside PyTorch.
import { describe, expect, it } from 'vitest';
import type { CompressionConfig } from '../../src/optim/dist-config.js';
import type { Stepper, UpdateResult } from '../../src/train/stepper.js';
import { stepConfig, tinyBatch, updateInputs } from './tiny.js';
import { dist, tinyRanks } from './tiny-ranks.js';

const [ranks, seqLen, updates] = [2, 16, 40];

async function weightsOf({ parameters, tensors }: Stepper): Promise<Float32Array[]> {
  return Promise.all([...parameters.keys()].map((name) => tensors.get(name)!.toFloat32()));
}

/** Losses of updates on the same few batches, and the weights of each rank afterwards. */
async function train(change: Partial<CompressionConfig>, dtype: 'fp32' | 'fp16' = 'fp32') {
  using all = await tinyRanks(ranks, (rank) => {
    const own = dist(rank, ranks);
    const compression = { ...own.compression, density: 0.05, rank: 2, errorFeedback: true, ...change };
    return { ...stepConfig(4, seqLen, dtype), dist: { ...own, compression } };
  });
  const results = await all.all(async (stepper, rank) => {
    const told: UpdateResult[] = [];
    for (let step = 0; step < updates; step++) {
      const batch = tinyBatch(10 * (step % 3) + rank, [16, 12, 16, 9], seqLen);
      told.push(await stepper.update([batch], updateInputs(step)));
    }
    return told;
  });
  const told = results[0]!;
  return { told, losses: told.map(({ loss }) => loss), weights: await Promise.all(all.steppers.map(weightsOf)) };
}

const mean = (x: readonly number[]) => x.reduce((a, b) => a + b, 0) / x.length;
const plain = await train({ kind: 'none' });
const last = (losses: readonly number[]) => mean(losses.slice(-6));

describe('training', () => {
  // How much of what uncompressed training learns is learned, at the least, in forty updates.
  it.each([
    ['fp16', 0.99],
    ['bf16', 0.99],
    ['int8', 0.98],
    ['topk', 0.5],
    ['powersgd', 0.5],
  ] as const)('learns with %s, with the same bits on all ranks', async (kind, least) => {
    const { losses, weights } = await train({ kind });
    expect(weights[1]).toEqual(weights[0]);
    expect(losses).not.toEqual(plain.losses);
    const learned = (curve: readonly number[]) => plain.losses[0]! - last(curve);
    expect(learned(losses) / learned(plain.losses)).toBeGreaterThan(least);
  });

  it('begins to compress at startStep', async () => {
    const { losses, told } = await train({ kind: 'topk', startStep: 20 });
    // The update before shows in the loss of the next one.
    expect(losses.slice(0, 21)).toEqual(plain.losses.slice(0, 21));
    expect(losses.slice(21)).not.toEqual(plain.losses.slice(21));
    for (const [step, { compressionMs, compressionError }] of told.entries()) {
      expect(compressionMs > 0, `time of ${step}`).toBe(step >= 20);
      expect((compressionError as number) > 0.1, `error of ${step}`).toBe(step >= 20);
    }
    expect(plain.told[0]).toMatchObject({ compressionMs: 0, compressionError: null });
  });

  it('goes on with residuals in the units of a loss scale that changes', async () => {
    const { losses } = await train({ kind: 'int8' }, 'fp16');
    expect(last(losses) / last(plain.losses)).toBeCloseTo(1, 1);
  });
});
