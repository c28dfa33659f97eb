// Choice of the next token.
import { randomInt } from 'node:crypto';
import { HadalError } from '../core/errors.js';
import { randomUint32 } from '../data/shuffle.js';
import { type Candidates, candidatesOf, likeliest, type Narrowing, penalized } from './warpers.js';

/** How tokens are drawn. What is given is applied in this order: `repetitionPenalty`, `temperature`, `topK`, `topP`, `minP`. */
export interface SamplingOptions {
  /** What logits are divided by; 0 takes the likeliest token. 1 unless given. */
  temperature?: number;
  /** Only the likeliest k tokens, and those as likely as the k-th; all unless given. */
  topK?: number;
  /** Only the likeliest tokens that together have probability p, at least one; 1 unless given. */
  topP?: number;
  /** Only tokens that have this share of the likeliest one's probability, 0 to 1; 0 unless given. */
  minP?: number;
  /**
   * Logits of tokens that occur in the prompt or were generated are divided by this, negative ones multiplied: above 1
   * there are fewer repetitions. 1 unless given.
   */
  repetitionPenalty?: number;
  /** The same seed, the same choices; a random one unless given. */
  seed?: number;
}

/** A drawn token. */
export interface Choice {
  id: number;
  /** Natural logarithm of its probability by the model itself, before any of the {@link SamplingOptions}. */
  logprob: number;
}

/** Draws the tokens of one sequence from its logits. */
export class Sampler {
  readonly #temperature: number;
  readonly #narrowing: Narrowing;
  readonly #penalty: number;
  readonly #seen: Set<number>;
  readonly #next: () => number;

  /**
   * @param prompt - ids that come before the first choice
   * @throws HadalError HADAL_ERR_CONFIG naming the option that makes no sense
   */
  constructor(options: SamplingOptions = {}, prompt: Iterable<number> = []) {
    const {
      temperature = 1,
      topK = Number.POSITIVE_INFINITY,
      topP = 1,
      minP = 0,
      repetitionPenalty = 1,
      seed,
    } = options;
    const { isFinite: finite } = Number;
    expect('temperature', 'a number from 0 on', temperature, temperature >= 0 && finite(temperature));
    expect('topK', 'a whole number from 1 on', topK, topK >= 1 && (Number.isInteger(topK) || !finite(topK)));
    expect('topP', 'a number above 0, at most 1', topP, topP > 0 && topP <= 1);
    expect('minP', 'a number from 0 to 1', minP, minP >= 0 && minP <= 1);
    expect(
      'repetitionPenalty',
      'a number above 0',
      repetitionPenalty,
      repetitionPenalty > 0 && finite(repetitionPenalty),
    );
    expect('seed', 'a whole number', seed, seed === undefined || Number.isSafeInteger(seed));
    this.#temperature = temperature;
    this.#narrowing = { topK, topP, minP };
    this.#penalty = repetitionPenalty;
    this.#seen = new Set(repetitionPenalty === 1 ? [] : prompt);
    this.#next = randomUint32(seed ?? randomInt(2 ** 47));
  }

  /**
   * @param logits - [V], those that follow the prompt and all earlier choices
   * @throws HadalError HADAL_ERR_RUN when they are no numbers
   */
  choose(logits: Float32Array): Choice {
    const logTotal = logSumExp(logits);
    const id = this.#temperature === 0 ? likeliest(this.#penalized(logits)) : this.#draw(this.candidates(logits));
    if (this.#penalty !== 1) this.#seen.add(id);
    return { id, logprob: (logits[id] as number) - logTotal };
  }

  /** What the next token is drawn from at a temperature above 0. @param logits - [V], finite */
  candidates(logits: Float32Array): Candidates {
    return candidatesOf(this.#penalized(logits), this.#temperature, this.#narrowing);
  }

  #penalized(logits: Float32Array): Float32Array {
    return this.#penalty === 1 ? logits : penalized(logits, this.#seen, this.#penalty);
  }

  #draw({ ids, weights }: Candidates): number {
    let total = 0;
    for (const weight of weights) total += weight;
    const point = (this.#next() / 2 ** 32) * total;
    let passed = 0;
    let last = 0;
    for (let i = 0; i < ids.length; i++) {
      const weight = weights[i] as number;
      passed += weight;
      if (point < passed) return ids[i] as number;
      if (weight > 0) last = ids[i] as number;
    }
    return last; // only when every sum rounded up
  }
}

/** @throws HadalError HADAL_ERR_RUN when there is NaN, infinity, or nothing but −infinity */
function logSumExp(logits: Float32Array): number {
  const peak = logits[likeliest(logits)] as number;
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - peak);
  // NaN and an infinite peak both end here: NaN + anything is NaN.
  if (Number.isFinite(total)) return peak + Math.log(total);
  throw new HadalError(
    'HADAL_ERR_RUN',
    '[sampling] expected finite logits, got NaN or infinity; the model has diverged',
  );
}

function expect(option: string, expected: string, got: unknown, fits: boolean): void {
  if (!fits) throw new HadalError('HADAL_ERR_CONFIG', `[sampling] option '${option}' expected ${expected}, got ${got}`);
}
