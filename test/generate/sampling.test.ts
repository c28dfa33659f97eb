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
      { seed: 0.5 },
    ]) {
      expect(() => new Sampler(options)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_CONFIG' }));
    }
  });
});
