// The forward pass with keys and values of earlier tokens kept. B rows, T new tokens, S cache capacity, V vocabulary.
import { HadalError } from '../core/errors.js';
import type { ModelInputs } from '../nn/context.js';
import type { ParameterScope } from '../nn/parameters.js';
import { embedding } from '../ops/embedding.js';
import { matmul } from '../ops/matmul.js';
import { reshape } from '../ops/shape.js';
import { packedPrefix, readPackedWeights } from '../passes/pack-weights.js';
import type { Program } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Session } from '../session/session.js';

/** How earlier tokens are kept: compressed keys and values, where the model has them, or those of each head. */
export type CacheForm = 'latent' | 'expanded';

/** Options of {@link CachedDecoder}. */
export interface DecoderOptions {
  /** Rows that are decoded together; 1 unless given. */
  rows?: number;
  /** The most tokens that a row will be fed, at most the model's positions. */
  positions: number;
  /** 'latent' unless given, where the model has it. */
  cache?: CacheForm;
}

/** Sizes are rounded up to powers of two, so that few programs serve all lengths. */
const smallestBucket = 16;
const bucket = (count: number, limit: number) =>
  Math.min(limit, Math.max(smallestBucket, 2 ** Math.ceil(Math.log2(count))));

/**
 * Rows that grow, each at its own length: holds the caches, which are slots of fixed capacity, and the weights packed for
 * few tokens at a time. Weights must not change while it lives. One call at a time.
 */
export class CachedDecoder implements Disposable {
  readonly #session: Session;
  readonly #positions: number;
  readonly #capacity: number;
  readonly #form: CacheForm;
  readonly #logits: Tensor;
  /** Tokens that each row has been fed. */
  readonly #filled: number[];
  /** Caches and packed weights, by slot name. A decoder has its own: whoever trains the weights changes them between two. */
  readonly #slots: Record<string, Tensor> = {};

  /** @throws HadalError HADAL_ERR_CONFIG for a latent cache of a model that has none, HADAL_ERR_MEMORY */
  constructor(session: Session, { rows = 1, positions, cache }: DecoderOptions) {
    const { model, device } = session;
    if (cache === 'latent' && !model.hasLatentCache) {
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[decoder] expected cache 'expanded' for a model without latent attention (${model.family}), got 'latent'`,
      );
    }
    this.#session = session;
    this.#positions = positions;
    this.#capacity = bucket(positions, model.maxPositions);
    this.#form = cache ?? (model.hasLatentCache ? 'latent' : 'expanded');
    this.#filled = new Array<number>(rows).fill(0);
    this.#logits = device.allocate([rows, model.vocabSize], 'fp32');
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
    const length = longest === 1 ? 1 : bucket(longest, this.#capacity);
    const isEmpty = start.every((count) => count === 0);
    const program = await this.#program(length, isEmpty);
    const each = <T>(value: (row: readonly number[], b: number, i: number) => T) =>
      rows.flatMap((row, b) => Array.from({ length }, (_, i) => value(row, b, i)));
    await this.#session.run(
      program,
      { ...this.#slots, logits: this.#logits },
      {
        tokens: Int32Array.from(each((row, _, i) => row[i] ?? 0)),
        positions: Int32Array.from(each((row, b, i) => (i < row.length ? (start[b] as number) + i : 0))),
        docIds: Int32Array.from(each((row, _, i) => (i < row.length ? 0 : -1))),
        start: Int32Array.from(start),
        counts: Int32Array.from(rows, (row) => row.length),
        last: Int32Array.from(rows, (row, b) => b * length + Math.max(0, row.length - 1)),
      },
    );
    for (const [b, row] of rows.entries()) (start[b] as number) += row.length;
    const logits = await this.#logits.toFloat32();
    const size = this.#session.model.vocabSize;
    return rows.map((row, b) => (row.length === 0 ? null : logits.slice(b * size, (b + 1) * size)));
  }

  /** The program for so many new tokens a row, its slots filled. */
  async #program(length: number, isEmpty: boolean): Promise<Program> {
    const key = `decode ${this.#filled.length} ${length} ${this.#capacity} ${this.#form} ${isEmpty}`;
    const trace = (scope: ParameterScope) => this.#trace(scope, length, isEmpty);
    const program = this.#session.program(key, trace, (graph) => readPackedWeights(graph).graph);
    const missing = program.slots.filter(({ name }) => /^(cache|packed)\//.test(name) && !this.#slots[name]);
    for (const { name, shape, dtype } of missing) this.#slots[name] = this.#session.device.allocate(shape, dtype);
    if (missing.some(({ name }) => name.startsWith(packedPrefix))) {
      const packing = this.#session.program(`pack ${key}`, trace, (graph) => readPackedWeights(graph).packing);
      await this.#session.run(packing, this.#slots, {});
    }
    return program;
  }

  #trace(scope: ParameterScope, length: number, isEmpty: boolean): void {
    const { graph } = scope;
    const rows = this.#filled.length;
    const ids = (name: string) => graph.input(name, [rows, length], 'int32');
    const counts = (name: string) => graph.input(name, [rows], 'int32');
    const inputs: ModelInputs = {
      tokens: ids('tokens'),
      positions: ids('positions'),
      docIds: ids('docIds'),
      mtpTokens: [],
      cache: {
        start: counts('start'),
        counts: counts('counts'),
        capacity: this.#capacity,
        form: this.#form,
        isEmpty,
      },
      dropoutKey: null,
    };
    const { hidden, head } = this.#session.model.forward(scope, inputs);
    const last = embedding(reshape(hidden, [rows * length, -1]), counts('last'));
    graph.output('logits', matmul(last, head, { transposeB: true, outputDType: 'fp32' }));
  }

  [Symbol.dispose](): void {
    this.#logits.dispose();
    for (const tensor of Object.values(this.#slots)) tensor.dispose();
  }
}

function dataError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[decoder] expected ${expected}, got ${got}`);
}
