// Passes over caches of earlier tokens: what decoders share. B rows, T new tokens a row, S cache capacity.
import { HadalError } from '../core/errors.js';
import type { Graph, Value } from '../graph/graph.js';
import type { ModelInputs } from '../nn/context.js';
import type { ParameterScope } from '../nn/parameters.js';
import { applyFactors } from '../passes/apply-factors.js';
import { packedPrefix, readPackedWeights } from '../passes/pack-weights.js';
import type { Program } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Session } from '../session/session.js';

/** How earlier tokens are kept: compressed keys and values, where the model has them, or those of each head. */
export type CacheForm = 'latent' | 'expanded';

/** Options that decoders share. */
export interface CacheOptions {
  /** The most tokens that a row will be fed, at most the model's positions. */
  positions: number;
  /** 'latent' unless given, where the model has it. */
  cache?: CacheForm;
}

/** Factors of weights are packed, not their products: few tokens take as long as reading the weights. */
const packed = (graph: Graph) => readPackedWeights(applyFactors(graph));

/** A pass over new tokens. */
export interface CachedPass {
  /** Names the traced program among those of equal sizes. */
  name: string;
  /** New tokens of each row; a row may have none. */
  rows: readonly (readonly number[])[];
  /** The position of each row's first new token: caches before it are read, those from it on are written. */
  start: readonly number[];
  /** T, at least the longest row's length. */
  length: number;
  trace: (scope: ParameterScope, inputs: ModelInputs) => void;
  /** Results for the caller. */
  outputs: Record<string, Tensor>;
  /** Inputs beside those of the model. */
  inputs: Record<string, Int32Array>;
}

/** Sizes are rounded up to powers of two, so that few programs serve all lengths. */
const smallestBucket = 16;
const bucket = (count: number) => Math.max(smallestBucket, 2 ** Math.ceil(Math.log2(count)));

/**
 * Holds the caches, which are slots of fixed capacity, and the weights packed for few tokens at a time. Weights must not
 * change while it lives. One call at a time.
 */
export class CachedPrograms implements Disposable {
  readonly #capacity: number;
  readonly #form: CacheForm;
  /** Caches, states and packed weights. Whoever trains the weights changes them between two decoders, so each has its own. */
  readonly #slots: Record<string, Tensor> = {};

  /** @throws HadalError HADAL_ERR_CONFIG for a latent cache of a model that has none */
  constructor(
    private readonly session: Session,
    { positions, cache }: CacheOptions,
  ) {
    const { hasLatentCache = false, family, maxPositions } = session.model;
    if (cache === 'latent' && !hasLatentCache) {
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[decoder] expected cache 'expanded' for a model without latent attention (${family}), got 'latent'`,
      );
    }
    this.#capacity = Math.min(bucket(positions), maxPositions);
    this.#form = cache ?? (hasLatentCache ? 'latent' : 'expanded');
  }

  /** A T for so many tokens. */
  lengthFor(count: number): number {
    return Math.min(bucket(count), this.#capacity);
  }

  async run({ name, rows, start, length, trace, outputs, inputs }: CachedPass): Promise<void> {
    const isEmpty = length >= smallestBucket && start.every((count) => count === 0);
    const key = `${name} ${rows.length} ${length} ${this.#capacity} ${this.#form} ${isEmpty}`;
    const program = await this.#program(key, (scope) => {
      const ids = (input: string) => scope.graph.input(input, [rows.length, length], 'int32');
      const counts = (input: string) => scope.graph.input(input, [rows.length], 'int32');
      trace(scope, {
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
      });
    });
    const each = (value: (b: number, i: number) => number, padding: number) =>
      Int32Array.from(
        rows.flatMap((row, b) => Array.from({ length }, (_, i) => (i < row.length ? value(b, i) : padding))),
      );
    await this.session.run(
      program,
      { ...this.#slots, ...outputs },
      {
        tokens: each((b, i) => rows[b]?.[i] as number, 0),
        positions: each((b, i) => (start[b] as number) + i, 0),
        docIds: each(() => 0, -1),
        start: Int32Array.from(start),
        counts: Int32Array.from(rows, (row) => row.length),
        ...inputs,
      },
    );
  }

  /** What an earlier pass left in an output named `state/…`. */
  state(scope: ParameterScope, name: string): Value {
    const { shape, dtype } = this.#slots[name] as Tensor;
    return scope.graph.slot(name, shape, dtype);
  }

  /** The traced program, its caches, states and packed weights there. */
  async #program(key: string, trace: (scope: ParameterScope) => void): Promise<Program> {
    const program = this.session.program(key, trace, (graph) => packed(graph).graph);
    const own = ['cache/', 'state/', packedPrefix];
    const missing = [...program.slots, ...program.outputs].filter(
      ({ name }) => own.some((prefix) => name.startsWith(prefix)) && !(name in this.#slots),
    );
    // A state that a program reads and writes is listed twice.
    for (const { name, shape, dtype } of missing) this.#slots[name] ??= this.session.device.allocate(shape, dtype);
    const unpacked = missing.map(({ name }) => name).filter((name) => name.startsWith(packedPrefix));
    if (unpacked.length > 0) {
      const packing = this.session.program(`pack ${unpacked}`, trace, (graph) => {
        const { packing } = packed(graph);
        for (const name of packing.updates.keys()) if (!unpacked.includes(name)) packing.updates.delete(name);
        return packing;
      });
      await this.session.run(packing, this.#slots, {});
    }
    return program;
  }

  [Symbol.dispose](): void {
    for (const tensor of Object.values(this.#slots)) tensor.dispose();
  }
}
