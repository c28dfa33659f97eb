// A model's parameters from the tensors of a source, also of one whose weights are not yet shared or factorised as the
// model's are.
import { bytesOf } from '../core/dtype.js';
import { HadalError, invariant } from '../core/errors.js';
import { usableProcessors } from '../core/processors.js';
import { sameShape, sizeOf } from '../core/shape.js';
import { workerUrl } from '../core/worker-url.js';
import { mapInOrder } from '../data/parallel.js';
import { WorkerPool } from '../data/worker-pool.js';
import { fromFloat32, toFloat32 } from '../formats/convert.js';
import type { SafetensorsDType } from '../formats/safetensors.js';
import { type ElementRange, overlap } from '../formats/tensor-pieces.js';
import { type Model, parametersOf } from '../models/model.js';
import type { FactoredWeight, Parameter, ParameterPart } from '../nn/parameters.js';
import type { Tensor } from '../runtime/tensor.js';
import type { FactorizeTask } from './low-rank-worker.js';
import { formatOf, type StoredTensor, tensorOf } from './model-directory.js';
import type { ModelSource, SourceTensors } from './model-source.js';
import type { TruncatedSvd } from './truncated-svd.js';

/** A tensor of which a process holds some numbers alone. */
export interface TensorShare extends StoredTensor {
  /** Has them at its beginning. */
  readonly held: Tensor;
  /** Which they are. */
  readonly range: ElementRange;
}

/** What parameters are read into. */
export type ParameterTarget = Tensor | TensorShare;

/** The squares of weights, and what is left of them in those that stand for them. */
class Kept {
  count = 0;
  #all = 0;
  #lost = 0;
  #least = 1;

  add(all: number, lost: number): void {
    this.count++;
    this.#all += all;
    this.#lost += lost;
    if (all > 0) this.#least = Math.min(this.#least, 1 - lost / all);
  }

  get least(): number {
    return this.#least;
  }

  toString(): string {
    const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
    return `${percent(1 - this.#lost / (this.#all || 1))} of their squares (${percent(this.#least)} where it is least)`;
  }
}

/** Rounding to bf16 loses some millionths. */
const negligible = 1e-4;

/** A source's tensors, known to be those that its configuration calls for. */
export class OpenParameters implements AsyncDisposable {
  readonly #parameters: readonly Parameter[];
  /** What the source has factors of. */
  readonly #factorised: ReadonlyMap<string, FactoredWeight>;

  constructor(
    private readonly source: ModelSource,
    private readonly files: SourceTensors,
    /** The name that the source has each tensor under. */
    private readonly names: ReadonlyMap<string, string>,
    private readonly model: Model,
  ) {
    this.#parameters = [...parametersOf(model).values()];
    const own = [...parametersOf(source.model).values()].filter(({ name, shape }) => {
      const found = files.factors.get(name);
      return found !== undefined && sameShape(found, shape);
    });
    this.#factorised = new Map(own.flatMap(({ factorOf }) => (factorOf ? [[factorOf.name, factorOf]] : [])));
  }

  /**
   * Fills tensors. Weights that the model shares and the source does not become their mean, those that it factorises the
   * nearest of its rank: both are nearest in the sum of squares.
   *
   * @returns what became of them
   * @throws HadalError HADAL_ERR_CHECKPOINT where the source's own configuration says that they are equal, or of that rank
   */
  async load(tensors: ReadonlyMap<string, ParameterTarget>): Promise<string[]> {
    const tied = new Kept();
    for (const parameter of this.#parameters) {
      const { factorOf } = parameter;
      if (factorOf && !this.#hasFactors(factorOf)) continue;
      const tensor = tensorOf(tensors, parameter);
      const format = formatOf(tensor);
      for (const part of parameter.parts) {
        const whole = { first: part.offset, count: sizeOf(part.shape) };
        const { first, count } = overlap(rangeOf(tensor), whole);
        if (count === 0) continue;
        const range = count < whole.count ? { first: first - part.offset, count } : undefined;
        const bytes = factorOf
          ? await this.files.read(part.name, format, range)
          : await this.#read(part, parameter.copies, format, tied, range);
        await writeAt(tensor, first, bytes);
      }
    }
    const approximated = await this.#approximate(tensors, tied);
    const notes: string[] = [];
    if (tied.least < 1) {
      this.#refuseUnlessNew(1 - tied.least, `equal weights in the layers that share them`);
      notes.push(
        `tensors that differed between the layers that now share them: ${tied.count}; their means keep ${tied}`,
      );
    }
    if (approximated.count > 0) {
      this.#refuseUnlessNew(1 - approximated.least, 'matrices of the rank that config.json says');
      notes.push(`matrices that are now products of low rank: ${approximated.count}; they keep ${approximated}`);
    }
    return notes;
  }

  /** What a configuration asks for anew may differ from what is there; what it says of its own tensors may not. */
  #refuseUnlessNew(lost: number, expected: string): void {
    const { path, model } = this.source;
    if (this.model !== model || lost <= negligible) return;
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[model] expected ${expected} in ${path}, got others: the tensors were changed by something that does not know of it; take 'hadal' out of its config.json to open them as they are`,
    );
  }

  #hasFactors({ name, rank, copies }: FactoredWeight): boolean {
    const known = this.#factorised.get(name);
    return known?.rank === rank && known.copies.length === copies.length;
  }

  /** Numbers of a part, or some of them: the tensor's, or the mean of those that the source has for it. */
  async #read(
    part: ParameterPart,
    copies: readonly ParameterPart[],
    format: SafetensorsDType,
    tied: Kept,
    range?: ElementRange,
  ): Promise<Uint8Array> {
    const isAlike = ({ name, offset, shape }: ParameterPart) =>
      this.names.has(name) && offset === part.offset && sameShape(shape, part.shape);
    const others = copies.filter(isAlike);
    if (others.length === 0) return this.#rows(part, format, range);
    const all: Float32Array[] = [];
    for (const one of [part, ...others]) all.push(toFloat32('F32', await this.#rows(one, 'F32', range)));
    return fromFloat32(format, meanOf(all, tied));
  }

  #rows({ name, shape, rows }: ParameterPart, format: SafetensorsDType, range?: ElementRange): Promise<Uint8Array> {
    const own = this.names.get(name) as string;
    if (!rows) return this.files.read(own, format, range);
    const { first, count } = range ?? { first: 0, count: sizeOf(shape) };
    return this.files.read(own, format, { first: rows.first * sizeOf(shape.slice(1)) + first, count });
  }

  /** Factors of what the source has as products alone. */
  async #approximate(tensors: ReadonlyMap<string, ParameterTarget>, tied: Kept): Promise<Kept> {
    const kept = new Kept();
    const missing = this.#parameters.flatMap(({ name, factorOf }) =>
      factorOf?.left === name && !this.#hasFactors(factorOf) ? [factorOf] : [],
    );
    if (missing.length === 0) return kept;
    const threads = usableProcessors();
    await using pool = new WorkerPool(workerUrl(import.meta.url, './low-rank-worker.js'), threads);
    const factorize = async ({ weight, index, task }: MatrixToFactorize) => ({
      weight,
      index,
      svd: await pool.run<TruncatedSvd>('factorize', task),
    });
    for await (const { weight, index, svd } of mapInOrder(this.#matrices(missing, tied), threads, factorize)) {
      for (const [name, { data }] of [[weight.left, svd.left] as const, [weight.right, svd.right] as const]) {
        const tensor = tensors.get(name);
        invariant(tensor, `no tensor for the factor '${name}'`);
        await writeAt(tensor, index * data.length, fromFloat32(formatOf(tensor), data));
      }
      const found = svd.singular.reduce((sum, value) => sum + value ** 2, 0);
      kept.add(svd.energy, Math.max(0, svd.energy - found));
    }
    return kept;
  }

  async *#matrices(weights: readonly FactoredWeight[], tied: Kept): AsyncGenerator<MatrixToFactorize> {
    for (const weight of weights) {
      const dense = new Float32Array(sizeOf(weight.shape));
      for (const part of weight.parts) {
        const bytes = await this.#read(part, weight.copies, 'F32', tied);
        dense.set(toFloat32('F32', bytes), part.offset);
      }
      const shape = weight.shape.slice(-2);
      const size = sizeOf(shape);
      for (let index = 0; index * size < dense.length; index++) {
        const data = dense.slice(index * size, (index + 1) * size);
        yield { weight, index, task: { matrix: { data, shape }, rank: weight.rank } };
      }
    }
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.files[Symbol.asyncDispose]();
  }
}

interface MatrixToFactorize {
  weight: FactoredWeight;
  /** Of the matrix within the weight. */
  index: number;
  task: FactorizeTask;
}

/** The numbers that a target holds. */
const rangeOf = (target: ParameterTarget): ElementRange =>
  'range' in target ? target.range : { first: 0, count: target.size };

/** Of numbers from the one number `offset` on, writes those that the target holds. */
async function writeAt(target: ParameterTarget, offset: number, bytes: Uint8Array): Promise<void> {
  const width = bytesOf(target.dtype, 1);
  const range = rangeOf(target);
  const { first, count } = overlap(range, { first: offset, count: bytes.byteLength / width });
  if (count === 0) return;
  const here = bytes.subarray((first - offset) * width, (first - offset + count) * width);
  const tensor = 'range' in target ? target.held : target;
  await tensor.write(here, (first - range.first) * width);
}

/** The mean by element; that of equal numbers is the number. */
function meanOf(all: readonly Float32Array[], kept: Kept): Float32Array {
  const [first, ...others] = all as [Float32Array, ...Float32Array[]];
  const mean = first.map((x, i) => x + others.reduce((sum, other) => sum + (other[i] as number) - x, 0) / all.length);
  let squares = 0;
  let lost = 0;
  for (const values of all) {
    for (const [i, x] of values.entries()) {
      squares += x * x;
      lost += (x - (mean[i] as number)) ** 2;
    }
  }
  kept.add(squares, lost);
  return mean;
}
