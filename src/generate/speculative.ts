// Self-speculative decoding: a model's multi-token-prediction modules draft the next tokens, one forward pass checks them.
// DeepSeek-V3, arXiv:2412.19437, §2.2 and §5.4.3. V vocabulary, D hidden size, K modules.
//
// Module k at position i reads the state of module k − 1 there (module 0 being the model) and token i + k, and predicts token
// i + k + 1. Once tokens 0 … n are known, of which n were fed, module 1 drafts token n + 1 from position n − 1, module 2
// token n + 2 from the same position, and so on. Drafts that turn out wrong are forgotten by going back to an earlier length;
// what modules computed of them is computed anew, for which each pass begins K − 1 positions early.
import { HadalError, invariant } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import type { ModelInputs } from '../nn/context.js';
import type { ParameterScope } from '../nn/parameters.js';
import { embedding } from '../ops/embedding.js';
import { matmul } from '../ops/matmul.js';
import { reshape } from '../ops/shape.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Session } from '../session/session.js';
import { CachedPrograms, type CacheOptions } from './cached-programs.js';
import { likeliest } from './warpers.js';

/** What one step gave. */
export interface SpeculativeStep {
  /** The choices, 1 … K + 1 of them. The last one has not been fed. */
  ids: number[];
  /** Drafts that were checked. */
  drafted: number;
  /** Drafts that were chosen. */
  accepted: number;
}

/** Positions of a pass, whose states are in the slots `stateOf(…)`. */
interface Window {
  first: number;
  /** T of its program. */
  length: number;
}

const stateOf = (depth: number, { length }: Window) => `state/${depth}/${length}`;

/** One row that grows by several tokens a step. Weights must not change while it lives. One call at a time. */
export class SpeculativeDecoder implements Disposable {
  readonly #session: Session;
  readonly #positions: number;
  readonly #programs: CachedPrograms;
  readonly #logits: Tensor;
  /** Tokens that were fed; during a step also those about to be. */
  readonly #ids: number[] = [];
  /** What the model's last pass left to the modules. */
  #window: Window | null = null;

  /** @throws HadalError HADAL_ERR_CONFIG for a model without prediction modules, or a latent cache it does not have */
  constructor(session: Session, options: CacheOptions) {
    const { mtpDepth, vocabSize, family } = session.model;
    if (mtpDepth === 0) {
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[speculation] expected a model with multi-token-prediction modules, got ${family} without; decode it without speculation`,
      );
    }
    this.#session = session;
    this.#positions = options.positions;
    this.#programs = new CachedPrograms(session, options);
    this.#logits = session.device.allocate([mtpDepth + 1, vocabSize], 'fp32');
  }

  /**
   * Feeds tokens and chooses what follows them, together with the drafts that are chosen too.
   *
   * @param ids - one or more: the prompt, then what the last step chose last
   * @param choose - picks a token by logits [V]; called in order of positions, each time after what was picked before
   * @param isEnd - nothing is chosen after such a token
   * @throws HadalError HADAL_ERR_DATA for no tokens, or more than there are positions
   */
  async step(
    ids: readonly number[],
    choose: (logits: Float32Array) => number,
    isEnd: (id: number) => boolean = () => false,
  ): Promise<SpeculativeStep> {
    const fed = this.#ids.length;
    const known = fed + ids.length;
    if (ids.length === 0) throw dataError('tokens to feed', 'none');
    if (known > this.#positions) throw dataError(`at most ${this.#positions} tokens`, `${known}`);
    const sequence = this.#ids;
    sequence.push(...ids);
    const chosen: number[] = [];
    try {
      await this.#draft(fed);
      const drafts = sequence.slice(known);
      const logits = await this.#check(fed, known);
      for (const row of logits) {
        const id = choose(row);
        chosen.push(id);
        if (id !== drafts[chosen.length - 1] || isEnd(id)) break;
      }
      const accepted = chosen.filter((id, i) => id === drafts[i]).length;
      return { ids: chosen, drafted: drafts.length, accepted };
    } finally {
      sequence.length = chosen.length === 0 ? fed : known + chosen.length - 1;
    }
  }

  /** Runs the modules over the last pass's positions; they append what they predict beyond the known tokens. */
  async #draft(fed: number): Promise<void> {
    const { model } = this.#session;
    const sequence = this.#ids;
    const window = this.#window;
    for (let depth = 1; window && depth <= model.mtpDepth && fed + depth <= sequence.length; depth++) {
      const tokens = sequence.slice(window.first + depth, fed + depth);
      const [logits] = await this.#run(`module ${depth}`, window, tokens, 1, (scope, inputs) => {
        const previous = this.#programs.state(scope, stateOf(depth - 1, window));
        const module = model.predictAhead?.(scope, inputs, depth, previous);
        invariant(module, `a ${model.family} model has prediction modules and does not trace them`);
        if (depth < model.mtpDepth) scope.graph.output(stateOf(depth, window), module.state);
        return module;
      });
      if (sequence.length === fed + depth && sequence.length < this.#positions)
        sequence.push(likeliest(logits as Float32Array));
    }
  }

  /** Feeds the model all that was not fed. @returns logits after the last known token and after each draft */
  async #check(fed: number, known: number): Promise<Float32Array[]> {
    const { model } = this.#session;
    const first = Math.max(0, fed - model.mtpDepth + 1);
    const tokens = this.#ids.slice(first);
    // All steps behind the prompt are of one length.
    const usual = Math.min(2 * model.mtpDepth, this.#programs.lengthFor(2 * model.mtpDepth));
    const length = tokens.length <= usual ? usual : this.#programs.lengthFor(tokens.length);
    const window = { first, length };
    const logits = await this.#run('check', window, tokens, this.#ids.length - known + 1, (scope, inputs) => {
      const { hidden, head, state } = model.forward(scope, inputs);
      invariant(state, `a ${model.family} model has prediction modules and gives them no state`);
      scope.graph.output(stateOf(0, window), state);
      return { hidden, head };
    });
    this.#window = window;
    return logits;
  }

  /** @returns logits of the last `count` tokens */
  async #run(
    name: string,
    { first, length }: Window,
    tokens: readonly number[],
    count: number,
    trace: (scope: ParameterScope, inputs: ModelInputs) => { hidden: Value; head: Value },
  ): Promise<Float32Array[]> {
    const { mtpDepth, vocabSize } = this.#session.model;
    const from = tokens.length - count;
    await this.#programs.run({
      name,
      rows: [tokens],
      start: [first],
      length,
      trace(scope, inputs) {
        const { hidden, head } = trace(scope, inputs);
        const last = embedding(reshape(hidden, [length, -1]), scope.graph.input('last', [mtpDepth + 1], 'int32'));
        scope.graph.output('logits', matmul(last, head, { transposeB: true, outputDType: 'fp32' }));
      },
      outputs: { logits: this.#logits },
      inputs: { last: Int32Array.from({ length: mtpDepth + 1 }, (_, i) => Math.min(from + i, tokens.length - 1)) },
    });
    const logits = await this.#logits.toFloat32();
    return Array.from({ length: count }, (_, i) => logits.slice(i * vocabSize, (i + 1) * vocabSize));
  }

  [Symbol.dispose](): void {
    this.#logits.dispose();
    this.#programs[Symbol.dispose]();
  }
}

function dataError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[speculation] expected ${expected}, got ${got}`);
}
