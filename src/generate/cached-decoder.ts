// The forward pass with keys and values of earlier tokens kept. One row; T new tokens, S cache capacity, V vocabulary.
import type { ParameterScope } from '../nn/parameters.js';
import { embedding } from '../ops/embedding.js';
import { matmul } from '../ops/matmul.js';
import { reshape } from '../ops/shape.js';
import { packedPrefix, readPackedWeights } from '../passes/pack-weights.js';
import type { Program } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Session } from '../session/session.js';

/** Sizes are rounded up to powers of two, so that few programs serve all lengths. */
const smallestBucket = 16;
const bucket = (count: number, limit: number) =>
  Math.min(limit, Math.max(smallestBucket, 2 ** Math.ceil(Math.log2(count))));

/**
 * A sequence that grows: holds the caches, which are slots of fixed capacity, and the weights packed for single tokens.
 * Weights must not change while it lives.
 */
export class CachedDecoder implements Disposable {
  readonly #capacity: number;
  readonly #logits: Tensor;
  #caches: Record<string, Tensor> | null = null;
  /** Packed when first needed; a decoder has its own, for whoever trains the weights changes them between two decoders. */
  #packed: Record<string, Tensor> | null = null;
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
    this.#caches ??= this.#allocate(program, 'cache/');
    if (length === 1) this.#packed ??= await this.#pack();
    await this.session.run(
      program,
      { ...this.#caches, ...this.#packed, logits: this.#logits },
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
    const trace = (scope: ParameterScope) => this.#trace(scope, length);
    const key = `decode ${length} ${this.#capacity}`;
    return length === 1
      ? this.session.program(key, trace, (graph) => readPackedWeights(graph).graph)
      : this.session.program(key, trace);
  }

  #trace(scope: ParameterScope, length: number): void {
    const { graph } = scope;
    const { hidden, head } = this.session.model.forward(scope, {
      tokens: graph.input('tokens', [1, length], 'int32'),
      positions: graph.input('positions', [1, length], 'int32'),
      docIds: null,
      mtpTokens: [],
      cache: { start: graph.input('start', [1], 'int32'), capacity: this.#capacity },
      dropoutKey: null,
    });
    const last = embedding(reshape(hidden, [length, -1]), graph.input('last', [1], 'int32'));
    graph.output('logits', matmul(last, head, { transposeB: true, outputDType: 'fp32' }));
  }

  async #pack(): Promise<Record<string, Tensor>> {
    const program = this.session.program(
      'pack',
      (scope) => this.#trace(scope, 1),
      (graph) => readPackedWeights(graph).packing,
    );
    const packed = this.#allocate(program, packedPrefix);
    await this.session.run(program, packed, {});
    return packed;
  }

  #allocate({ slots }: Program, prefix: string): Record<string, Tensor> {
    const own = slots.filter(({ name }) => name.startsWith(prefix));
    return Object.fromEntries(own.map(({ name, shape, dtype }) => [name, this.session.device.allocate(shape, dtype)]));
  }

  [Symbol.dispose](): void {
    this.#logits.dispose();
    for (const tensor of Object.values({ ...this.#caches, ...this.#packed })) tensor.dispose();
  }
}
