import { describe, expect, it } from 'vitest';
import type { Tensor } from '../../src/runtime/tensor.js';
import { Stepper } from '../../src/train/stepper.js';
import { relativeNorm, roundTo } from '../support/compare.js';
import { toFloats } from '../support/float-bytes.js';
import { planHere, stepConfig, tinyBatch, tinyModel, tinyStepper, updateInputs } from './tiny.js';
import { joinRows } from './tiny-ranks.js';

const weights = async (stepper: Stepper) =>
  new Map(
    await Promise.all(
      [...stepper.parameters.keys()].map(async (name) => [name, await stepper.tensors.get(name)?.toFloat32()] as const),
    ),
  );

/** First moments of all parameters, one after the other. */
async function moments({ tensors }: Stepper): Promise<Float32Array> {
  const names = [...tensors.keys()].filter((name) => name.startsWith('adam.m/'));
  const parts = await Promise.all(names.map((name) => (tensors.get(name) as Tensor).toFloat32()));
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

it('begins with nothing of what tensors held that it took over', async () => {
  const config = stepConfig(2, 16);
  using run = await tinyStepper(config);
  await run.stepper.update([tinyBatch(3, [16, 16], 16)], updateInputs(0));
  const plans = await planHere(tinyModel(), config, { threads: 2, accumulates: false });
  using next = new Stepper(run.device, tinyModel(), config, plans, null, run.stepper.tensors);
  expect((await moments(next)).some((x) => x !== 0)).toBe(true);
  await next.begin();
  expect((await moments(next)).every((x) => x === 0)).toBe(true);
});

describe('an update', () => {
  it.each(['fp32', 'bf16', 'fp16', 'fp8'] as const)('learns a batch by heart in %s', async (dtype) => {
    using run = await tinyStepper(stepConfig(4, 16, dtype));
    const batch = tinyBatch(3, [16, 16, 16, 16], 16);
    const losses: number[] = [];
    for (let step = 0; step < 60; step++) losses.push((await run.stepper.update([batch], updateInputs(step))).loss);
    expect(losses[0]).toBeGreaterThan(3.9);
    expect(losses[0]).toBeLessThan(4.6);
    expect(losses.at(-1)).toBeLessThan(1.5);
  });

  it.each(['fp32', 'bf16', 'fp16', 'fp8'] as const)('repeats bit for bit in %s', async (dtype) => {
    const run = async () => {
      using made = await tinyStepper(stepConfig(2, 16, dtype));
      for (let step = 0; step < 3; step++)
        await made.stepper.update([tinyBatch(step, [16, 9], 16)], updateInputs(step));
      return await weights(made.stepper);
    };
    const [a, b] = [await run(), await run()];
    for (const [name, values] of a) expect(values, name).toEqual(b.get(name));
  });

  it.each([
    ['bf16', false],
    ['bf16', true],
    ['fp16', false],
    ['fp16', true],
  ] as const)(
    'in %s keeps copies of the weights that are these, rounded (accumulating: %s)',
    async (dtype, accumulates) => {
      using run = await tinyStepper(stepConfig(1, 16, dtype), { accumulates });
      const check = async () => {
        const copies = [...run.stepper.tensors].filter(([name]) => name.startsWith('working/'));
        expect(copies.length).toBeGreaterThan(15);
        for (const [name, copy] of copies) {
          const master = await run.stepper.tensors.get(name.slice('working/'.length))?.toFloat32();
          expect(copy.dtype).toBe(dtype);
          const found = toFloats(await copy.read(new Uint8Array(copy.bytes)), dtype);
          expect(Float32Array.from(found), name).toEqual(master?.map((x) => roundTo(dtype, x)));
        }
      };
      await check();
      const before = await weights(run.stepper);
      for (let step = 0; step < 2; step++) {
        const rows = accumulates ? [step, step + 9] : [step];
        await run.stepper.update(
          rows.map((seed) => tinyBatch(seed, [16], 16)),
          updateInputs(step),
        );
      }
      const name = 'model.layers.0.self_attn.o_proj.weight';
      expect((await weights(run.stepper)).get(name)).not.toEqual(before.get(name));
      await check();
      // Written from outside.
      await run.stepper.tensors.get(name)?.write((before.get(name) as Float32Array).map((x) => x / 3));
      await run.stepper.refreshWorkingCopies();
      await check();
    },
  );

  it.each(['bf16', 'fp16', 'fp8'] as const)(
    'in %s of several micro-batches is near one of the whole batch',
    async (dtype) => {
      const lengths = [16, 5, 11, 2];
      using whole = await tinyStepper(stepConfig(lengths.length, 16, dtype));
      using parts = await tinyStepper(stepConfig(1, 16, dtype), { accumulates: true });
      const rows = lengths.map((length, i) => tinyBatch(i, [length], 16));
      const one = await whole.stepper.update([joinRows(rows)], updateInputs(0));
      const sum = await parts.stepper.update(rows, updateInputs(0));
      expect(Math.abs(sum.loss / one.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(sum.gradNorm / one.gradNorm - 1)).toBeLessThan(1e-2);
    },
  );

  // Uneven token counts, a micro-batch without any label, and windows of fewer micro-batches than the others.
  for (const lengths of [
    [16, 16, 16, 16],
    [16, 5, 11, 2, 9, 16, 3, 7],
    [3, 16, 7, 1, 12],
    [1, 16],
  ]) {
    it(`of ${lengths.length} micro-batches with ${lengths} tokens equals one of the whole batch`, async () => {
      using whole = await tinyStepper(stepConfig(lengths.length, 16));
      using parts = await tinyStepper(stepConfig(1, 16), { accumulates: true });
      for (let step = 0; step < 2; step++) {
        const rows = lengths.map((length, i) => tinyBatch(100 * step + i, [length], 16));
        const joined = joinRows(rows);
        const one = await whole.stepper.update([joined], updateInputs(step));
        const sum = await parts.stepper.update(rows, updateInputs(step));
        for (const key of ['loss', 'mtpLoss', 'balanceLoss', 'gradNorm', 'expertImbalance'] as const) {
          expect(Math.abs((sum[key] as number) - (one[key] as number)) / (one[key] as number), key).toBeLessThan(1e-6);
        }
        // The first moments of the first update are the gradients, times a factor.
        if (step === 0)
          expect(relativeNorm(await moments(parts.stepper), await moments(whole.stepper))).toBeLessThan(1e-6);
      }
      const [a, b] = [await weights(whole.stepper), await weights(parts.stepper)];
      // Adam divides by √v: where a gradient is near 0, rounding decides its sign. Norms of whole tensors agree.
      for (const [name, values] of a)
        expect(relativeNorm(b.get(name) as Float32Array, values as Float32Array), name).toBeLessThan(1e-4);
      const bias = 'model.layers.1.mlp.gate.e_score_correction_bias';
      expect(b.get(bias)).toEqual(a.get(bias));
    });
  }

  it('has random keys of its own for each micro-batch, also while windows grow', async () => {
    using run = await tinyStepper(stepConfig(1, 16));
    const keys = [1, 1, 2, 2, 3, 3].flatMap((parts, step) => {
      const window = Array.from({ length: parts }, () => tinyBatch(1, [16], 16));
      const inputs = updateInputs(step, { mostMicroBatches: 3 });
      return run.stepper.inputsOf(window, inputs).map(({ key }) => `${key}`);
    });
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('skips a gradient that is not finite and changes nothing', async () => {
    using run = await tinyStepper(stepConfig(1, 16));
    const batch = tinyBatch(1, [16], 16);
    const name = 'model.layers.0.self_attn.o_proj.weight';
    const tensor = run.stepper.tensors.get(name);
    const broken = await tensor?.toFloat32();
    (broken as Float32Array)[5] = Number.NaN;
    await tensor?.write(broken as Float32Array);
    const before = await weights(run.stepper);
    const result = await run.stepper.update([batch], updateInputs(0));
    expect(result.skipped).toBe(true);
    for (const [key, values] of await weights(run.stepper)) expect(values, key).toEqual(before.get(key));
    expect(await run.stepper.tensors.get('state/updates')?.toFloat32()).toEqual(Float32Array.of(0));
  });

  it('names the op and the layer when the data do not fit', async () => {
    using run = await tinyStepper(stepConfig(1, 16));
    const batch = tinyBatch(1, [16], 16);
    batch.tokens[3] = 61;
    await expect(run.stepper.update([batch], updateInputs(0))).rejects.toThrow(/\[embedding\].*61.*op 'embedding'/);
  });
});
