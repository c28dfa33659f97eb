// The forward pass with keys and values of earlier tokens kept. One row; T new tokens, S cache capacity, V vocabulary.
import { embedding } from '../ops/embedding.js';
import { matmul } from '../ops/matmul.js';
import { reshape } from '../ops/shape.js';
import type { Program } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Session } from '../session/session.js';

/** Sizes are rounded up to powers of two, so that few programs serve all lengths. */
const smallestBucket = 16;
const bucket = (count: number, limit: number) =>
  Math.min(limit, Math.max(smallestBucket, 2 ** Math.ceil(Math.log2(count))));

/** A sequence that grows: holds the caches, which are slots of fixed capacity. */
export class CachedDecoder implements Disposable {
  readonly #capacity: number;
  readonly #logits: Tensor;
  #caches: Record<string, Tensor> | null = null;
  #filled = 0;

  /** @param positions - the most tokens that will be fed, at most the model's positions */
  constructor(
    private readonly session: Session,
    positions: number,
  ) {
    this.#capacity = bucket(positions, session.model.maxPositions);
    this.#logits = session.device.allocate([1, session.model.vocabSize], 'fp32');
  }

  /** Appends tokens. @returns logits [V] after the last one */
  async feed(ids: readonly number[]): Promise<Float32Array> {
    const start = this.#filled;
    // Padding behind the new tokens writes keys and values at positions that no query sees before they are written anew:
    // a query at position p sees keys 0 … p, and all of these have been fed.
    const length = ids.length === 1 ? 1 : bucket(ids.length, this.#capacity - start);
    const tokens = new Int32Array(length);
    tokens.set(ids);
    const program = this.#program(length);
    this.#caches ??= this.#allocate(program);
    await this.session.run(
      program,
      { ...this.#caches, logits: this.#logits },
      {
        tokens,
        positions: Int32Array.from({ length }, (_, i) => start + i),
        start: Int32Array.of(start),
        last: Int32Array.of(ids.length - 1),
      },
    );
    this.#filled += ids.length;
    return this.#logits.toFloat32();
  }

  #program(length: number): Program {
    const { model } = this.session;
    const capacity = this.#capacity;
    return this.session.program(`decode ${length} ${capacity}`, (scope) => {
      const { graph } = scope;
      const { hidden, head } = model.forward(scope, {
        tokens: graph.input('tokens', [1, length], 'int32'),
        positions: graph.input('positions', [1, length], 'int32'),
        docIds: null,
        mtpTokens: [],
        cache: { start: graph.input('start', [1], 'int32'), capacity },
        dropoutKey: null,
      });
      const last = embedding(reshape(hidden, [length, -1]), graph.input('last', [1], 'int32'));
      graph.output('logits', matmul(last, head, { transposeB: true, outputDType: 'fp32' }));
    });
  }

  #allocate({ slots }: Program): Record<string, Tensor> {
    const caches = slots.filter(({ name }) => name.startsWith('cache/'));
    return Object.fromEntries(
      caches.map(({ name, shape, dtype }) => [name, this.session.device.allocate(shape, dtype)]),
    );
  }

  [Symbol.dispose](): void {
    this.#logits.dispose();
    for (const cache of Object.values(this.#caches ?? {})) cache.dispose();
  }
}
