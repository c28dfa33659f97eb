import { describe, expect, it } from 'vitest';
import {
  inverseFrequencies,
  type RopeScaling,
  rotaryMultiplier,
  softmaxScaleFactor,
  type YarnScaling,
} from '../../src/nn/rope-scaling.js';
import { rotaryTables } from '../../src/nn/rotary-tables.js';
import { expectHadalError } from '../support/op-case.js';

const v3: YarnScaling = { type: 'yarn', factor: 40, originalMaxPositionEmbeddings: 4096, mscale: 1, mscaleAllDim: 1 };
// biome-ignore lint/suspicious/noApproximativeNumericConstant: what V2-Lite's config says
const v2Lite: YarnScaling = { ...v3, mscale: 0.707, mscaleAllDim: 0.707 };

describe('yarn', () => {
  it('gives the softmax scales of DeepSeek-V3 and V2-Lite', () => {
    expect(192 ** -0.5 * softmaxScaleFactor(v3)).toBeCloseTo(0.1352338, 7);
    expect(192 ** -0.5 * softmaxScaleFactor(v2Lite)).toBeCloseTo(0.1147214, 7);
    expect(softmaxScaleFactor(null)).toBe(1);
    expect(softmaxScaleFactor({ type: 'yarn', factor: 40, originalMaxPositionEmbeddings: 4096 })).toBe(1);
    expect(softmaxScaleFactor({ ...v3, factor: 1 })).toBe(1);
  });

  it('multiplies cos and sin by 1 for DeepSeek, by the magnitude where the two scales differ', () => {
    expect(rotaryMultiplier(v3)).toBe(1);
    expect(rotaryMultiplier(v2Lite)).toBe(1);
    expect(rotaryMultiplier(null)).toBe(1);
    const m = (mscale: number) => 0.1 * mscale * Math.log(40) + 1;
    expect(rotaryMultiplier({ ...v3, mscaleAllDim: 0.5 })).toBeCloseTo(m(1) / m(0.5), 15);
    expect(rotaryMultiplier({ type: 'yarn', factor: 40, originalMaxPositionEmbeddings: 4096 })).toBeCloseTo(m(1), 15);
  });

  it('keeps fast dims, slows the others down, ramps between (DeepSeek-V3: dims 10 to 23)', () => {
    const plain = inverseFrequencies(64, 10000);
    const scaled = inverseFrequencies(64, 10000, v3);
    expect(plain[0]).toBe(1);
    expect(plain[16]).toBeCloseTo(0.01, 15);
    expect([...scaled.subarray(0, 11)]).toEqual([...plain.subarray(0, 11)]);
    expect(scaled[11]).toBeLessThan(plain[11] as number);
    expect(scaled[16]).toBeCloseTo(5.5e-3, 12);
    expect(scaled[22]).toBeGreaterThan((plain[22] as number) / 40);
    for (let i = 23; i < 32; i++) expect(scaled[i]).toBeCloseTo((plain[i] as number) / 40, 15);
    expect(scaled[31]).toBeCloseTo(3.333804e-6, 12);
  });

  it('has a step where the ramp has no width', () => {
    const yarn: YarnScaling = { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 8, betaFast: 1, betaSlow: 1 };
    const plain = inverseFrequencies(2, 1e6);
    expect(inverseFrequencies(2, 1e6, { ...yarn, betaFast: 8 })[0]).toBe(plain[0]);
    expect(inverseFrequencies(8, 1e6, yarn).every(Number.isFinite)).toBe(true);
  });

  it('ramps between whole dims unless told otherwise, and multiplies by a factor that is given', () => {
    // Of transformers: 64 pairs, theta 10000.
    const yarn: YarnScaling = { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 32768 };
    const plain = inverseFrequencies(128, 10000);
    const slowed = (scaling: RopeScaling) =>
      [34, 37, 46, 58, 61].map((i) => (plain[i] as number) / (inverseFrequencies(128, 10000, scaling)[i] as number));
    for (const [i, ratio] of slowed(yarn).entries())
      expect(ratio).toBeCloseTo([1, 1.06383, 1.49254, 3.22581, 4][i] as number, 5);
    for (const [i, ratio] of slowed({ ...yarn, truncate: false }).entries())
      expect(ratio).toBeCloseTo([1, 1.05265, 1.49322, 3.37864, 4][i] as number, 5);
    expect(rotaryMultiplier({ ...yarn, mscale: 1, mscaleAllDim: 0.5 })).toBeCloseTo(1.0648216, 7);
    expect(rotaryMultiplier({ ...yarn, attentionFactor: 1.5 })).toBe(1.5);
  });

  it('refuses dims that would fill the memory', () => {
    expectHadalError(
      () => rotaryTables(1, 1e9, 10000),
      'HADAL_ERR_CONFIG',
      /at most 65536 rotary dims, got 1000000000/,
    );
  });

  it('tabulates cos and sin of position times frequency', () => {
    const { cos, sin } = rotaryTables(5000, 64, 10000, { ...v3, mscaleAllDim: 0.5 });
    const frequencies = inverseFrequencies(64, 10000, v3);
    const multiplier = rotaryMultiplier({ ...v3, mscaleAllDim: 0.5 });
    expect(cos.length).toBe(5000 * 32);
    for (const [position, pair] of [
      [0, 0],
      [1, 31],
      [4999, 0],
      [4999, 17],
    ] as const) {
      const angle = position * (frequencies[pair] as number);
      expect(cos[position * 32 + pair]).toBe(Math.fround(Math.cos(angle) * multiplier));
      expect(sin[position * 32 + pair]).toBe(Math.fround(Math.sin(angle) * multiplier));
    }
  });
});

describe('other stretched frequencies', () => {
  const plain = inverseFrequencies(128, 500000);
  const slowed = (scaling: RopeScaling) =>
    Array.from(inverseFrequencies(128, 500000, scaling), (frequency, i) => (plain[i] as number) / frequency);

  it('of Llama 3.1: those of transformers', () => {
    const scaling = { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 };
    const ratios = slowed({ type: 'llama3', ...scaling });
    const between = [1, 1.20748, 1.55341, 2.02631, 2.69453, 3.68425, 5.25733, 8];
    for (const [i, ratio] of between.entries()) expect(ratios[28 + i]).toBeCloseTo(ratio, 5);
    expect(ratios.slice(0, 28).every((ratio) => ratio === 1)).toBe(true);
    expect(ratios.slice(35).every((ratio) => ratio === 8)).toBe(true);
    expect(rotaryMultiplier({ type: 'llama3', ...scaling })).toBe(1);
  });

  it('of linear scaling: all alike; of dynamic: none, within the model’s positions', () => {
    for (const ratio of slowed({ type: 'linear', factor: 2.5 })) expect(ratio).toBeCloseTo(2.5, 12);
    expect(slowed({ type: 'dynamic', factor: 4 }).every((ratio) => ratio === 1)).toBe(true);
  });
});
