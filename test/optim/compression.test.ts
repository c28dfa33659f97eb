// Compressed sums of gradients over several ranks: goldens of the same algorithms by PyTorch, and what all of them promise.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { CompressionConfig } from '../../src/optim/dist-config.js';
import { relativeNorm } from '../support/compare.js';
import { type RankState, runCompression } from './run-compression.js';

type Kind = CompressionConfig['kind'];

/** MurmurHash3's finalizer, in [-1, 1). */
function hashed(x: number): number {
  let h = x >>> 0;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) / 2 ** 31;
}

const shapes = { first: [40, 64], experts: [3, 24, 32], wide: [16, 200] };
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** As compression-golden.py has it: few numbers are large, and updates have a part in common. */
function gradient(shape: readonly number[], rank: number, update: number, tensor: number): Float32Array {
  return Float32Array.from({ length: sizeOf(shape) }, (_, i) => {
    const own = hashed(i + 100_000 * (1 + rank + 2 * (update + 10 * tensor)));
    return own ** 5 + 0.2 * hashed(i + 50_000_000 + 100_000 * tensor) ** 3;
  });
}

const gradients = (ranks: number, update: number, of: Readonly<Record<string, readonly number[]>> = shapes) =>
  Array.from({ length: ranks }, (_, rank) =>
    Object.fromEntries(Object.entries(of).map(([name, shape], t) => [name, gradient(shape, rank, update, t)])),
  );

const norm = (x: ArrayLike<number>) => Math.sqrt(Array.from(x).reduce((total, one) => total + one * one, 0));
const added = (...all: ArrayLike<number>[]) =>
  Float64Array.from(all[0]!, (_, i) => all.reduce((total, one) => total + one[i]!, 0));

interface Row {
  sum: number[];
  sumNorm: number;
  residual: number[];
  residualNorm: number;
}
const goldens = JSON.parse(readFileSync(new URL('compression-golden.json', import.meta.url), 'utf8')) as Record<
  'topk' | 'powersgd',
  Record<string, Row[]>
>;

describe('PyTorch’s results', () => {
  for (const kind of ['topk', 'powersgd'] as const) {
    it(`are those of ${kind}, update after update`, async () => {
      const updates = Array.from({ length: 5 }, (_, update) => gradients(2, update));
      const steps = await runCompression({ kind }, { shapes, ranks: 2, updates });
      for (const [update, states] of steps.entries()) {
        for (const [name, rows] of Object.entries(goldens[kind])) {
          const golden = rows[update]!;
          const sum = states[1]![`sum/${name}`]!;
          const residual = states[1]![`residual/${name}`]!;
          const picked = (x: Float32Array) => x.filter((_, i) => i % 29 === 0);
          expect(norm(sum) / golden.sumNorm).toBeCloseTo(1, 5);
          expect(norm(residual) / golden.residualNorm).toBeCloseTo(1, 5);
          expect(relativeNorm(picked(sum), golden.sum)).toBeLessThan(2e-5);
          expect(relativeNorm(picked(residual), golden.residual)).toBeLessThan(2e-5);
        }
      }
    });
  }
});

const lossy: Kind[] = ['fp16', 'bf16', 'int8', 'topk', 'powersgd'];
const more = { ...shapes, vector: [2000], small: [10, 10], odd: [37, 61] };

describe.each(lossy)('%s', (kind) => {
  it('gives all ranks the same bits, and keeps what the sum lacks', async () => {
    for (const ranks of [1, 3]) {
      const updates = [0, 1, 2].map((update) => gradients(ranks, update, more));
      const steps = await runCompression({ kind }, { shapes: more, ranks, updates });
      let before: RankState[] = [];
      for (const [update, states] of steps.entries()) {
        for (const name of Object.keys(more)) {
          const [first, ...others] = states.map((state) => state[`sum/${name}`]!);
          for (const other of others) expect(other).toEqual(first);
          // Σ (g + e) = sum + Σ next e; 16-bit sums are rounded once more on the way.
          const residual = (state: RankState | undefined) =>
            state?.[`residual/${name}`] ?? new Float32Array(first!.length);
          const given = added(
            ...updates[update]!.map((own) => own[name]!),
            ...states.map((_, r) => residual(before[r])),
          );
          const got = added(first!, ...states.map(residual));
          const lost = { fp16: 1e-3, bf16: 1e-2 }[kind as 'fp16' | 'bf16'] ?? 5e-7;
          expect(relativeNorm(got, given), `${name} of ${ranks}`).toBeLessThan(lost);
        }
        const all = Object.entries(states[0]!).flatMap(([name, x]) => (name.startsWith('residual/') ? [...x] : []));
        expect(states[0]!.residualNorm![0]! / norm(all)).toBeCloseTo(1, 5);
        before = states;
      }
    }
  });

  it('forgets residuals of an update that was skipped, whatever is in them', async () => {
    const bad = gradients(2, 0);
    bad[0]!.first![100] = Number.NaN;
    bad[1]!.experts![2000] = Number.POSITIVE_INFINITY;
    const two = [gradients(2, 1), gradients(2, 2)];
    const after = await runCompression({ kind }, { shapes, ranks: 2, updates: [bad, ...two], skipped: [0] });
    const fresh = await runCompression({ kind }, { shapes, ranks: 2, updates: two });
    expect(Number.isFinite(norm(after[0]![0]!['sum/first']!))).toBe(false);
    for (const [i, states] of fresh.entries()) {
      for (const name of Object.keys(shapes)) {
        expect(after[i + 1]![0]![`sum/${name}`]).toEqual(states[0]![`sum/${name}`]);
      }
    }
  });

  it('gives the same bits when repeated, with two threads, too', async () => {
    const given = { shapes, ranks: 2, updates: [gradients(2, 0), gradients(2, 1)], threads: 2 };
    const [once, again] = [await runCompression({ kind }, given), await runCompression({ kind }, given)];
    expect(again).toEqual(once);
  });
});

it('vectors, small gradients and those that would not become shorter are sums in fp32', async () => {
  const whole = { vector: [2000], small: [10, 10], narrow: [512, 5] };
  const updates = [gradients(2, 0, whole)];
  const [states] = await runCompression({ kind: 'powersgd' }, { shapes: whole, ranks: 2, updates });
  expect(Object.keys(states![0]!).filter((name) => !name.startsWith('sum/'))).toEqual([]);
  for (const name of Object.keys(whole)) {
    const exact = added(...updates[0]!.map((own) => own[name]!));
    expect([...states![0]![`sum/${name}`]!]).toEqual([...Float32Array.from(exact)]);
  }
});

it('error feedback lets the mean of sums become the sum of gradients', async () => {
  for (const kind of ['int8', 'topk', 'powersgd', 'bf16'] as const) {
    const update = gradients(2, 0);
    const count = 120;
    const steps = await runCompression({ kind }, { shapes, ranks: 2, updates: Array(count).fill(update) });
    for (const name of Object.keys(shapes)) {
      const exact = added(...update.map((own) => own[name]!));
      const one = relativeNorm(steps[0]![0]![`sum/${name}`]!, exact);
      const mean = added(...steps.map((states) => states[0]![`sum/${name}`]!)).map((x) => x / count);
      expect(relativeNorm(mean, exact), `${kind} ${name}`).toBeLessThan(Math.max(one / 4, kind === 'bf16' ? 5e-3 : 0));
    }
  }
});
