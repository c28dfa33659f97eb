// Choice of the next token. Top-p: Holtzman et al. 2020, arXiv:1904.09751.
import { randomInt } from 'node:crypto';
import { HadalError } from '../core/errors.js';
import { randomUint32 } from '../data/shuffle.js';

/** How tokens are drawn. */
export interface SamplingOptions {
  /** What logits are divided by; 0 takes the likeliest token. 1 unless given. */
  temperature?: number;
  /** Only the likeliest k tokens; all unless given. */
  topK?: number;
  /** Only the likeliest tokens that together have probability p, at least one; 1 unless given. */
  topP?: number;
  /** The same seed, the same choices; a random one unless given. */
  seed?: number;
}

/** A drawn token. */
export interface Choice {
  id: number;
  /** Natural logarithm of its probability by the model itself, before temperature, top-k and top-p. */
  logprob: number;
}

/** Draws tokens from logits. */
export class Sampler {
  readonly #temperature: number;
  readonly #topK: number;
  readonly #topP: number;
  readonly #next: () => number;

  /** @throws HadalError HADAL_ERR_CONFIG naming the option that makes no sense */
  constructor({ temperature = 1, topK = Number.POSITIVE_INFINITY, topP = 1, seed }: SamplingOptions = {}) {
    expect('temperature', 'a number from 0 on', temperature, temperature >= 0 && Number.isFinite(temperature));
    expect(
      'topK',
      'a whole number from 1 on',
      topK,
      topK >= 1 && (Number.isInteger(topK) || topK === Number.POSITIVE_INFINITY),
    );
    expect('topP', 'a number above 0, at most 1', topP, topP > 0 && topP <= 1);
    expect('seed', 'a whole number', seed, seed === undefined || Number.isSafeInteger(seed));
    this.#temperature = temperature;
    this.#topK = topK;
    this.#topP = topP;
    this.#next = randomUint32(seed ?? randomInt(2 ** 47));
  }

  /**
   * @param logits - [V]
   * @throws HadalError HADAL_ERR_RUN when they are no numbers
   */
  choose(logits: Float32Array): Choice {
    const best = likeliest(logits);
    const peak = logits[best] as number;
    // NaN and an infinite peak both end here: NaN + anything is NaN.
    let total = 0;
    for (const logit of logits) total += Math.exp(logit - peak);
    if (!Number.isFinite(total)) {
      throw new HadalError(
        'HADAL_ERR_RUN',
        '[sampling] expected finite logits, got NaN or infinity; the model has diverged',
      );
    }
    const id = this.#temperature === 0 ? best : this.#draw(logits, peak);
    return { id, logprob: (logits[id] as number) - peak - Math.log(total) };
  }

  #draw(logits: Float32Array, peak: number): number {
    const ids = this.#candidates(logits);
    const weights = Float64Array.from(ids, (id) => Math.exp(((logits[id] as number) - peak) / this.#temperature));
    const kept = this.#topP < 1 ? countOfMass(weights, this.#topP) : weights.length;
    const point = (this.#next() / 2 ** 32) * sumOf(weights, kept);
    let passed = 0;
    for (let i = 0; i < kept; i++) {
      passed += weights[i] as number;
      if (point < passed) return ids[i] as number;
    }
    return ids[0] as number; // only when every sum rounded up
  }

  /** The ids that top-k leaves, likeliest first where order matters. */
  #candidates(logits: Float32Array): Uint32Array {
    const ids = Uint32Array.from(logits, (_, id) => id);
    if (this.#topK >= logits.length && this.#topP === 1) return ids;
    ids.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
    return ids.subarray(0, Math.min(this.#topK, ids.length));
  }
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if ((logits[id] as number) > (logits[best] as number)) best = id;
  return best;
}

/** How many of the weights, greatest first, have `share` of their sum. */
function countOfMass(weights: Float64Array, share: number): number {
  const enough = share * sumOf(weights, weights.length);
  let mass = 0;
  let count = 0;
  while (count < weights.length && mass < enough) mass += weights[count++] as number;
  return count;
}

function sumOf(weights: Float64Array, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += weights[i] as number;
  return sum;
}

function expect(option: string, expected: string, got: unknown, fits: boolean): void {
  if (!fits) throw new HadalError('HADAL_ERR_CONFIG', `[sampling] option '${option}' expected ${expected}, got ${got}`);
}
