import type { DecodeStream } from '../data/tokenizer.js';
import type { Session } from '../session/session.js';
import { type Choice, Sampler, type SamplingOptions } from './sampling.js';
import { StopStrings } from './stop-strings.js';

/** Why a text ended: a stop string, the limit of tokens or positions, the end token, or the signal. */
export type FinishReason = 'stop' | 'length' | 'eos' | 'aborted';

/** A generated token. */
export interface Piece extends Choice {
  /**
   * New text; empty while a character's bytes are not all there or the text may become a stop string, and without a
   * tokenizer.
   */
  text: string;
  /** Set on the last piece. */
  finishReason: FinishReason | null;
}

/** What ends a text. */
export interface Endings {
  /** The most tokens. */
  limit: number;
  /** End tokens. */
  eos: ReadonlySet<number>;
  stop: readonly string[];
}

/** One text that is being continued. */
export class Row {
  /** Tokens that the model has not seen yet. */
  pending: readonly number[];
  generated = 0;
  finishReason: FinishReason | null = null;
  readonly #sampler: Sampler;
  readonly #limit: number;
  readonly #eos: ReadonlySet<number>;
  readonly #stopStrings: StopStrings;
  readonly #stopTokens: ReadonlySet<number>;
  readonly #texts: DecodeStream | undefined;

  private constructor(
    readonly prompt: readonly number[],
    { limit, eos, stop }: Endings,
    sampling: SamplingOptions,
    { tokenizer }: Session,
    stopTokens: ReadonlySet<number>,
  ) {
    this.pending = prompt;
    this.#sampler = new Sampler(sampling, prompt);
    this.#limit = limit;
    this.#eos = eos;
    this.#stopStrings = new StopStrings(stop);
    this.#stopTokens = stopTokens;
    this.#texts = tokenizer?.decodeStream({ after: prompt });
  }

  /** @throws HadalError HADAL_ERR_CONFIG for sampling options or stop strings that make no sense */
  static async start(
    session: Session,
    prompt: readonly number[],
    endings: Endings,
    sampling: SamplingOptions,
  ): Promise<Row> {
    return new Row(prompt, endings, sampling, session, await invisibleTokens(session, endings.stop));
  }

  /** Draws the next token. @param logits - [V] */
  choose = (logits: Float32Array): Choice => this.#sampler.choose(logits);

  /** Whether nothing comes after this token; a stop string or the limit may end the text, too. */
  isLast(id: number): boolean {
    return this.#eos.has(id) || this.#stopTokens.has(id);
  }

  /** Takes a drawn token as the next one. */
  async take(choice: Choice, isAborted: boolean): Promise<Piece> {
    this.pending = [choice.id];
    this.generated++;
    let text = this.#stopStrings.push((await this.#texts?.push(choice.id)) ?? '');
    const reason = this.#reasonAfter(choice.id) ?? (isAborted ? 'aborted' : null);
    if (reason !== null) {
      text += this.#stopStrings.push((await this.#texts?.flush()) ?? '') + this.#stopStrings.flush();
      this.finishReason = this.#stopStrings.isStopped ? 'stop' : reason;
    }
    return { ...choice, text, finishReason: this.finishReason };
  }

  #reasonAfter(id: number): FinishReason | null {
    if (this.#stopStrings.isStopped || this.#stopTokens.has(id)) return 'stop';
    if (this.#eos.has(id)) return 'eos';
    return this.generated === this.#limit ? 'length' : null;
  }
}

/** Stop strings that are special tokens never show up in the text. */
async function invisibleTokens({ tokenizer }: Session, stop: readonly string[]): Promise<Set<number>> {
  const found = new Set<number>();
  for (const text of stop) {
    const id = tokenizer?.idOf(text);
    if (id !== undefined && (await tokenizer?.decode([id])) === '') found.add(id);
  }
  return found;
}
