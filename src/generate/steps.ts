import type { Session } from '../session/session.js';
import { CachedDecoder, type DecoderOptions } from './decoder.js';
import type { Row } from './row.js';
import type { Choice } from './sampling.js';
import { SpeculativeDecoder } from './speculative.js';

/** One pass of a model over what is pending of some rows. */
export interface Steps extends Disposable {
  /** Draws the next tokens of each row: none of a row that has ended, one, or several where drafts were right. */
  next(rows: readonly Row[]): Promise<Choice[][]>;
}

/** A token a row and step. */
export class PlainSteps implements Steps {
  readonly #decoder: CachedDecoder;

  /** @throws HadalError as {@link CachedDecoder} */
  constructor(session: Session, options: DecoderOptions) {
    this.#decoder = new CachedDecoder(session, options);
  }

  async next(rows: readonly Row[]): Promise<Choice[][]> {
    const logits = await this.#decoder.feed(rows.map(({ pending, finishReason }) => (finishReason ? [] : pending)));
    return rows.map(({ choose }, i) => (logits[i] ? [choose(logits[i])] : []));
  }

  [Symbol.dispose](): void {
    this.#decoder[Symbol.dispose]();
  }
}

/** Several tokens a step, of a single row. */
export class SpeculativeSteps implements Steps {
  readonly #decoder: SpeculativeDecoder;
  drafted = 0;
  accepted = 0;

  /** @throws HadalError as {@link SpeculativeDecoder} */
  constructor(session: Session, options: DecoderOptions) {
    this.#decoder = new SpeculativeDecoder(session, options);
  }

  async next([row]: readonly Row[]): Promise<Choice[][]> {
    if (!row) return [];
    const choices: Choice[] = [];
    const { drafted, accepted } = await this.#decoder.step(
      row.pending,
      (logits) => {
        const choice = row.choose(logits);
        choices.push(choice);
        return choice.id;
      },
      (id) => row.isLast(id),
    );
    this.drafted += drafted;
    this.accepted += accepted;
    return [choices];
  }

  [Symbol.dispose](): void {
    this.#decoder[Symbol.dispose]();
  }
}
