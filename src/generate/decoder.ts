// Rows of text that grow token by token. B rows, V vocabulary.
import { HadalError } from '../core/errors.js';
import { embedding } from '../ops/embedding.js';
import { matmul } from '../ops/matmul.js';
import { reshape } from '../ops/shape.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Session } from '../session/session.js';
import { CachedPrograms, type CacheOptions } from './cached-programs.js';

/** Options of {@link CachedDecoder}. */
export interface DecoderOptions extends CacheOptions {
  /** Rows that are decoded together; 1 unless given. */
  rows?: number;
}

/** Rows that grow, each at its own length. Weights must not change while it lives. One call at a time. */
export class CachedDecoder implements Disposable {
  readonly #session: Session;
  readonly #positions: number;
  readonly #programs: CachedPrograms;
  readonly #logits: Tensor;
  /** Tokens that each row has been fed. */
  readonly #filled: number[];

  /** @throws HadalError HADAL_ERR_CONFIG for a latent cache of a model that has none, HADAL_ERR_MEMORY */
  constructor(session: Session, options: DecoderOptions) {
    const { rows = 1, positions } = options;
    this.#session = session;
    this.#positions = positions;
    this.#programs = new CachedPrograms(session, options);
    this.#filled = new Array<number>(rows).fill(0);
    this.#logits = session.device.allocate([rows, session.model.vocabSize], 'fp32');
  }

  /**
   * Appends tokens to each row; a row may get none.
   *
   * @returns for each row, logits [V] after its last token, or null where it got none
   * @throws HadalError HADAL_ERR_DATA for another number of rows, or more tokens than there are positions
   */
  async feed(rows: readonly (readonly number[])[]): Promise<(Float32Array | null)[]> {
    const start = this.#filled;
    if (rows.length !== start.length) throw dataError(`${start.length} rows`, `${rows.length}`);
    for (const [b, row] of rows.entries()) {
      const total = (start[b] as number) + row.length;
      if (total > this.#positions) throw dataError(`at most ${this.#positions} tokens`, `${total} in row ${b}`);
    }
    const longest = Math.max(...rows.map((row) => row.length));
    if (longest === 0) return rows.map(() => null);
    const length = longest === 1 ? 1 : this.#programs.lengthFor(longest);
    const { model } = this.#session;
    await this.#programs.run({
      name: 'decode',
      rows,
      start,
      length,
      trace(scope, inputs) {
        const { hidden, head } = model.forward(scope, inputs);
        const last = scope.graph.input('last', [rows.length], 'int32');
        const lastRows = embedding(reshape(hidden, [rows.length * length, -1]), last);
        scope.graph.output('logits', matmul(lastRows, head, { transposeB: true, outputDType: 'fp32' }));
      },
      outputs: { logits: this.#logits },
      inputs: { last: Int32Array.from(rows, (row, b) => b * length + Math.max(0, row.length - 1)) },
    });
    for (const [b, row] of rows.entries()) (start[b] as number) += row.length;
    const logits = await this.#logits.toFloat32();
    return rows.map((row, b) =>
      row.length === 0 ? null : logits.slice(b * model.vocabSize, (b + 1) * model.vocabSize),
    );
  }

  [Symbol.dispose](): void {
    this.#logits.dispose();
    this.#programs[Symbol.dispose]();
  }
}

function dataError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[decoder] expected ${expected}, got ${got}`);
}
