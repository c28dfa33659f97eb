import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Sampler, type SamplingOptions } from '../../src/generate/sampling.js';

const probabilities = [0.05, 0.4, 0.15, 0.3, 0.1];
const logits = Float32Array.from(probabilities, (p) => Math.log(p) + 20);

/** How often each id is drawn. */
function frequencies(options: SamplingOptions, draws = 20000): number[] {
  const sampler = new Sampler({ seed: 11, ...options });
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < draws; i++) {
    const { id } = sampler.choose(logits);
    counts[id] = (counts[id] as number) + 1;
  }
  return counts.map((count) => count / draws);
}

const expectFrequencies = (options: SamplingOptions, weights: number[]) => {
  const total = weights.reduce((sum, weight) => sum + weight);
  for (const [id, found] of frequencies(options).entries()) {
    const expected = (weights[id] as number) / total;
    if (expected === 0) expect(found).toBe(0);
    else expect(Math.abs(found - expected), `id ${id}`).toBeLessThan(0.012); // 3.5 standard deviations
  }
};

interface Golden {
  options: { temperature?: number; top_k?: number; top_p?: number; min_p?: number; repetition_penalty?: number };
  history: number[];
  logits: number[];
  probabilities: number[];
}

/** Probabilities of all tokens. */
function distribution(options: SamplingOptions, values: ArrayLike<number>, history: number[] = []): number[] {
  const { ids, weights } = new Sampler(options, history).candidates(Float32Array.from(values));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const found = new Array<number>(values.length).fill(0);
  for (const [i, id] of ids.entries()) found[id] = (weights[i] as number) / total;
  return found;
}

describe('candidates', () => {
  const goldens = JSON.parse(readFileSync(new URL('sampling-goldens.json', import.meta.url), 'utf8')) as Golden[];
  it.each(goldens.map((golden) => [JSON.stringify(golden.options), golden] as const))(
    'have the probabilities of transformers for %s',
    (_, { options, history, logits: values, probabilities: expected }) => {
      const given: Record<string, number | undefined> = {
        temperature: options.temperature,
        topK: options.top_k,
        topP: options.top_p,
        minP: options.min_p,
        repetitionPenalty: options.repetition_penalty,
      };
      const found = distribution(JSON.parse(JSON.stringify(given)) as SamplingOptions, values, history);
      expect(found.map((p) => p > 0)).toEqual(expected.map((p) => p > 0));
      for (const [id, p] of found.entries()) expect(p).toBeCloseTo(expected[id] as number, 6);
    },
  );

  it('are what sorting everything finds', () => {
    const options = fc.record({ topK: fc.integer({ min: 1, max: 40 }), percent: fc.integer({ min: 1, max: 99 }) });
    const values = fc.array(fc.integer({ min: -40, max: 40 }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(values, options, (tenths, { topK, percent }) => {
        const row = tenths.map((tenth) => Math.fround(tenth / 10));
        const topP = percent / 100 + 1e-5; // equal shares never add up to this
        const order = [...row.keys()].sort((a, b) => (row[b] as number) - (row[a] as number) || a - b);
        const least = row[order[Math.min(topK, row.length) - 1] as number] as number;
        const kept = order.filter((id) => (row[id] as number) >= least);
        const total = kept.reduce((sum, id) => sum + Math.exp(row[id] as number), 0);
        let mass = 0;
        const nucleus = kept.filter((id) => {
          const isIn = mass < topP;
          mass += Math.exp(row[id] as number) / total;
          return isIn;
        });
        const found = distribution({ topK, topP }, row);
        expect([...found.keys()].filter((id) => (found[id] as number) > 0)).toEqual(nucleus.sort((a, b) => a - b));
      }),
      { seed: 1, numRuns: 500 },
    );
  });
});

describe('sampling', () => {
  it('draws by the probabilities', () => expectFrequencies({}, probabilities));
  it('sharpens by the temperature', () =>
    expectFrequencies(
      { temperature: 0.5 },
      probabilities.map((p) => p * p),
    ));
  it('keeps the likeliest k', () => expectFrequencies({ topK: 2 }, [0, 0.4, 0, 0.3, 0]));
  it('keeps the smallest set of mass p', () => {
    expectFrequencies({ topP: 0.69 }, [0, 0.4, 0, 0.3, 0]);
    expectFrequencies({ topP: 0.71 }, [0, 0.4, 0.15, 0.3, 0]);
    expectFrequencies({ topP: 1e-9 }, [0, 1, 0, 0, 0]);
  });
  it('takes mass p of what k and the temperature left', () =>
    expectFrequencies({ topK: 2, topP: 0.56 }, [0, 1, 0, 0, 0]));

  it('keeps what is nearly as likely as the likeliest', () => {
    expectFrequencies({ minP: 0.3 }, [0, 0.4, 0.15, 0.3, 0]);
    expectFrequencies({ minP: 1 }, [0, 1, 0, 0, 0]);
  });
  it('makes what occurred less likely, its own choices included', () => {
    const first = new Sampler({ temperature: 0, repetitionPenalty: 1.5 }, [1]);
    const ids = Array.from({ length: 3 }, () => first.choose(Float32Array.of(1, 1.4, 1.2)).id);
    expect(ids).toEqual([2, 0, 1]);
    expect(new Sampler({ temperature: 0, repetitionPenalty: 2 }, [0]).choose(Float32Array.of(-1, -1.5)).id).toBe(1);
  });

  it('is greedy at temperature 0, the lower id on ties', () => {
    expect(new Sampler({ temperature: 0 }).choose(logits).id).toBe(1);
    expect(new Sampler({ temperature: 0 }).choose(Float32Array.of(1, 3, 3)).id).toBe(1);
  });

  it("tells the model's own log-probability", () => {
    const sampler = new Sampler({ temperature: 0.3, topK: 3, seed: 1 });
    for (let i = 0; i < 20; i++) {
      const { id, logprob } = sampler.choose(logits);
      expect(logprob).toBeCloseTo(Math.log(probabilities[id] as number), 5);
    }
  });

  it('repeats itself for a seed and only then', () => {
    const draw = (options: SamplingOptions) => {
      const sampler = new Sampler(options);
      return Array.from({ length: 40 }, () => sampler.choose(logits).id);
    };
    expect(draw({ seed: 5 })).toEqual(draw({ seed: 5 }));
    expect(draw({ seed: 6 })).not.toEqual(draw({ seed: 5 }));
    expect(draw({})).not.toEqual(draw({}));
  });

  it('bears masked logits and refuses diverged ones', () => {
    const masked = Float32Array.of(Number.NEGATIVE_INFINITY, 0, Number.NEGATIVE_INFINITY);
    expect(new Sampler().choose(masked)).toEqual({ id: 1, logprob: 0 });
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => new Sampler().choose(Float32Array.of(0, bad))).toThrow(
        expect.objectContaining({ code: 'HADAL_ERR_RUN' }),
      );
    }
  });

  it('refuses options that make no sense', () => {
    for (const options of [
      { temperature: -1 },
      { temperature: Number.NaN },
      { topK: 0 },
      { topK: 1.5 },
      { topP: 0 },
      { topP: 2 },
      { minP: -0.1 },
      { minP: 1.1 },
      { repetitionPenalty: 0 },
      { repetitionPenalty: Number.POSITIVE_INFINITY },
      { seed: 0.5 },
    ]) {
      expect(() => new Sampler(options)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_CONFIG' }));
    }
  });
});
