import { HadalError } from '../core/errors.js';
import type { Session } from '../session/session.js';
import type { CacheForm } from './cached-programs.js';
import { type FinishReason, type Piece, Row } from './row.js';
import type { SamplingOptions } from './sampling.js';
import { PlainSteps, SpeculativeSteps, type Steps } from './steps.js';

/** Options of `generate`. */
export interface GenerateOptions extends SamplingOptions {
  /** The most tokens to generate; 256 unless given. The model's longest sequence limits it too. */
  maxTokens?: number;
  /** Begin a text prompt with the tokenizer's bos, as training data does; unless given, what the tokenizer says, else true. */
  addBos?: boolean;
  /** Go on after the end token; false unless given. */
  ignoreEos?: boolean;
  /**
   * Strings that end the text and are no part of it, wherever token borders lie. One that is a special token ends it as
   * that token.
   */
  stop?: readonly string[];
  /**
   * Draft tokens with the model's multi-token-prediction modules and check several at once: the same tokens in fewer
   * steps. 'auto' does so for one prompt of a model that has them. false unless given.
   */
  speculative?: boolean | 'auto';
  /** What is kept of earlier tokens: 'latent' (compressed; the default where the model has it) or 'expanded'. */
  cache?: CacheForm;
  /** Ends the generation after the current token. */
  signal?: AbortSignal;
}

/** A generated token of one of several prompts. */
export interface BatchPiece extends Piece {
  /** Which prompt it continues. */
  index: number;
}

/** How fast it was. The consumer's own time does not count. */
export interface GenerationTimes {
  /** Until the first token of every prompt. */
  prefillMs: number;
  /** For all that came after. */
  decodeMs: number;
  /** Tokens after the first ones by `decodeMs`, of all prompts together; null when there were none. */
  tokensPerSecond: number | null;
  /** Tokens that speculation drafted, and how many of them were right. */
  drafted: number;
  accepted: number;
}

/** What became of one prompt. */
export interface PromptSummary {
  finishReason: FinishReason;
  promptTokens: number;
  generatedTokens: number;
}

/** What `generate` returns at its end. */
export interface GenerationSummary extends PromptSummary, GenerationTimes {}

/** What `generateBatch` returns at its end. */
export interface BatchSummary extends GenerationTimes {
  prompts: PromptSummary[];
}

/**
 * Continues a prompt, token by token. Nothing is computed before it is asked for. Ends after the end token or a stop
 * string, after `maxTokens`, where the model's positions end, or when the signal says so; the last piece says which. A
 * generation that is aborted between two pieces ends without another one.
 *
 * @param prompt - text, or token ids
 * @returns pieces, and at the end (the generator's return value) a summary
 * @throws HadalError HADAL_ERR_DATA for an empty prompt, one that is too long, ids outside of the vocabulary, or text for
 *   a model without tokenizer; HADAL_ERR_CONFIG for options that make no sense or that the model cannot follow
 */
export async function* generate(
  session: Session,
  prompt: string | readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<Piece, GenerationSummary, undefined> {
  using generation = await Generation.start(session, [prompt], options);
  for await (const { index: _, ...piece } of generation.pieces()) yield piece;
  const { prompts, ...times } = generation.summary();
  return { ...(prompts[0] as PromptSummary), ...times };
}

/**
 * Continues several prompts at once, each at its own length and until its own end. Prompt i gives the tokens that
 * `generate` gives with the seed `seed + i`.
 *
 * @param prompts - texts or token ids, one or more
 * @returns pieces: at each step one of every prompt that has not ended, in their order; at the end a summary
 * @throws HadalError as `generate`
 */
export async function* generateBatch(
  session: Session,
  prompts: readonly (string | readonly number[])[],
  options: GenerateOptions = {},
): AsyncGenerator<BatchPiece, BatchSummary, undefined> {
  using generation = await Generation.start(session, prompts, options);
  yield* generation.pieces();
  return generation.summary();
}

/** A whole generated text. */
export interface GeneratedText extends GenerationSummary {
  /** What was generated, without the prompt. */
  text: string;
  ids: number[];
}

/** All of what a generator gives. */
export async function collectText(pieces: AsyncGenerator<Piece, GenerationSummary, undefined>): Promise<GeneratedText> {
  let text = '';
  const ids: number[] = [];
  for (;;) {
    const { value, done } = await pieces.next();
    if (done) return { text, ids, ...value };
    text += value.text;
    ids.push(value.id);
  }
}

/** Rows under way. */
class Generation implements Disposable {
  #prefillMs: number | null = null;
  #decodeMs = 0;

  private constructor(
    private readonly rows: readonly Row[],
    private readonly steps: Steps,
    private readonly signal: AbortSignal | undefined,
  ) {}

  static async start(
    session: Session,
    prompts: readonly (string | readonly number[])[],
    options: GenerateOptions,
  ): Promise<Generation> {
    const { maxTokens = 256, ignoreEos = false, stop = [], speculative = false, cache, seed } = options;
    const addBos = options.addBos ?? session.tokenizer?.addsBos ?? true;
    expect('maxTokens', 'a whole number from 1 on', maxTokens, Number.isInteger(maxTokens) && maxTokens >= 1);
    expect(
      'stop',
      'no strings for a model without tokenizer',
      stop.length,
      stop.length === 0 || session.tokenizer !== null,
    );
    expect(
      'speculative',
      'false or "auto" for several prompts',
      speculative,
      speculative !== true || prompts.length === 1,
    );
    if (prompts.length === 0)
      throw new HadalError('HADAL_ERR_DATA', '[generate] expected at least one prompt, got none');
    const eos = ignoreEos ? new Set<number>() : endTokens(session);
    const rows: Row[] = [];
    let positions = 0;
    for (const [i, prompt] of prompts.entries()) {
      const ids = typeof prompt === 'string' ? await encode(session, prompt, addBos) : prompt;
      session.checkTokens(ids, prompts.length === 1 ? 'the prompt' : `prompt ${i}`);
      // The last token is not fed, so it needs no position.
      const limit = Math.min(maxTokens, session.model.maxPositions - ids.length + 1);
      const sampling = { ...options, ...(seed === undefined ? {} : { seed: seed + i }) };
      rows.push(await Row.start(session, ids, { limit, eos, stop }, sampling));
      positions = Math.max(positions, ids.length + limit - 1);
    }
    const isSpeculative = speculative === 'auto' ? rows.length === 1 && session.model.mtpDepth > 0 : speculative;
    const kind = isSpeculative ? SpeculativeSteps : PlainSteps;
    const steps = new kind(session, { rows: rows.length, positions, ...(cache ? { cache } : {}) });
    return new Generation(rows, steps, options.signal);
  }

  async *pieces(): AsyncGenerator<BatchPiece, void, undefined> {
    const { rows, signal } = this;
    while (rows.some(({ finishReason }) => finishReason === null) && !signal?.aborted) {
      const choices = await this.#step();
      for (const [index, row] of rows.entries()) {
        for (const choice of choices[index] ?? []) {
          // A stop string can end a row before the last of several tokens.
          if (row.finishReason !== null) break;
          yield { index, ...(await row.take(choice, signal?.aborted ?? false)) };
        }
      }
    }
    for (const row of rows) row.finishReason ??= 'aborted';
  }

  async #step() {
    const startMs = performance.now();
    const choices = await this.steps.next(this.rows);
    const ms = performance.now() - startMs;
    if (this.#prefillMs === null) this.#prefillMs = ms;
    else this.#decodeMs += ms;
    return choices;
  }

  summary(): BatchSummary {
    const prompts = this.rows.map(({ finishReason, prompt, generated }) => ({
      finishReason: finishReason ?? 'aborted',
      promptTokens: prompt.length,
      generatedTokens: generated,
    }));
    const decoded = prompts.reduce((sum, { generatedTokens }) => sum + Math.max(0, generatedTokens - 1), 0);
    const { drafted, accepted } = this.steps instanceof SpeculativeSteps ? this.steps : { drafted: 0, accepted: 0 };
    const tokensPerSecond = this.#decodeMs === 0 ? null : (1000 * decoded) / this.#decodeMs;
    return { prompts, prefillMs: this.#prefillMs ?? 0, decodeMs: this.#decodeMs, tokensPerSecond, drafted, accepted };
  }

  [Symbol.dispose](): void {
    this.steps[Symbol.dispose]();
  }
}

async function encode({ tokenizer }: Session, text: string, addBos: boolean): Promise<number[]> {
  if (!tokenizer) {
    throw new HadalError('HADAL_ERR_DATA', '[generate] expected token ids for a model without tokenizer, got text');
  }
  const bos = addBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  return [...bos, ...(await tokenizer.encode(text))];
}

/** What ends a text, by the tokenizer, config.json and generation_config.json. */
function endTokens({ model, tokenizer, generation }: Session): Set<number> {
  const ids = [tokenizer?.eosId, model.toHuggingFace().eos_token_id, generation?.eos_token_id];
  return new Set(ids.flat().filter((id): id is number => typeof id === 'number'));
}

function expect(option: string, expected: string, got: unknown, fits: boolean): void {
  if (!fits) throw new HadalError('HADAL_ERR_CONFIG', `[generate] option '${option}' expected ${expected}, got ${got}`);
}
