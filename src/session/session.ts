// A model with its weights on a device. B rows, T tokens of the longest row, V vocabulary.

import { gradients } from '../autodiff/gradients.js';
import { type DType, isFloat, parseDType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import { type Batch, batchFromRows } from '../data/batch.js';
import type { Tokenizer } from '../data/tokenizer.js';
import { toFloat32 } from '../formats/convert.js';
import { Graph, type Value } from '../graph/graph.js';
import { batchInputs, type Model, parametersOf } from '../models/model.js';
import { type Parameter, ParameterScope, shownParts } from '../nn/parameters.js';
import { linearCrossEntropy } from '../ops/linear-cross-entropy.js';
import { matmul } from '../ops/matmul.js';
import { reshape } from '../ops/shape.js';
import type { Pass } from '../passes/pipeline.js';
import { compile } from '../runtime/compile.js';
import { type Device, openDevice, type Program } from '../runtime/device.js';
import type { Tensor } from '../runtime/tensor.js';
import { trustDevice } from '../selftest/trust.js';
import { formatOf, type GenerationConfig, readPart, saveModelDirectory } from './model-directory.js';
import { openModelSource, openParameters } from './model-source.js';

/** What a session works on. */
export interface SessionParts {
  model: Model;
  /** By the names of `parametersOf(model)`, all of them. */
  tensors: ReadonlyMap<string, Tensor>;
  device: Device;
  tokenizer: Tokenizer | null;
  /** generation_config.json. */
  generation?: GenerationConfig | null;
}

/** Options of opening a model. */
export interface SessionOptions {
  /** 'cpu', 'cuda', 'cuda:1', 'cuda-sim', or 'auto' (default) for the best there is. */
  device?: string;
  /** Number format of the parameters: 'fp32' (default), 'bf16' or 'fp16'. */
  dtype?: string;
  /** Executor threads; as many as there are processors that the process may use unless given. */
  threads?: number;
  /** Binds each thread to a processor of its own (Linux); false unless given. */
  pinThreads?: boolean;
}

/** fp32 numbers of a tensor, row-major. */
export interface Floats {
  data: Float32Array;
  shape: Shape;
}

/** Programs that are kept; more shapes than a session usually meets. */
const programLimit = 32;

/** A loaded model. Calls may overlap; the device runs them one after the other. */
export class Session implements Disposable {
  /** @internal */
  readonly model: Model;
  readonly device: Device;
  /** null where the model came without one. */
  readonly tokenizer: Tokenizer | null;
  /** @internal */
  readonly generation: GenerationConfig | null;
  readonly #parameters: ReadonlyMap<string, Parameter>;
  readonly #dtype: DType;
  /** The weights by the names of hadal's parameters: those of Hugging Face, but for experts, which lie together. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly #owns: boolean;
  readonly #programs = new Map<string, Program>();
  #isDisposed = false;

  /** @param options.owns - whether tensors and device end with the session; false unless given @internal */
  constructor(
    { model, tensors, device, tokenizer, generation = null }: SessionParts,
    { owns = false }: { owns?: boolean } = {},
  ) {
    this.model = model;
    this.device = device;
    this.tokenizer = tokenizer;
    this.generation = generation;
    this.#dtype = tensors.values().next().value?.dtype ?? 'fp32';
    this.#parameters = parametersOf(model, this.#dtype);
    this.tensors = tensors;
    this.#owns = owns;
  }

  /** The model's `config.json`, as it would be saved. */
  get config(): Record<string, unknown> {
    return this.model.toHuggingFace();
  }

  /** Number of token ids: logits have so many columns. */
  get vocabSize(): number {
    return this.model.vocabSize;
  }

  /** The longest sequence, in tokens. */
  get maxPositions(): number {
    return this.model.maxPositions;
  }

  /**
   * Logits of every position. Rows may differ in length: the shorter ones are padded at their end, where the logits mean
   * nothing.
   *
   * @param inputIds - B rows of token ids
   * @returns logits [B, T, V]
   * @throws HadalError HADAL_ERR_DATA for ids outside of the vocabulary, an empty row or one longer than the model allows
   */
  async forward(
    inputIds: readonly (readonly number[])[],
  ): Promise<{ logits: Float32Array; shape: [number, number, number] }> {
    const batch = this.#batch(inputIds);
    const program = this.program(`forward ${batch.batch} ${batch.seqLen}`, (scope) => {
      const { hidden, head } = this.model.forward(scope, batchInputs(scope.graph, batch.batch, batch.seqLen, 0));
      scope.graph.output('logits', matmul(hidden, head, { transposeB: true, outputDType: 'fp32' }));
    });
    const shape: [number, number, number] = [batch.batch, batch.seqLen, this.model.vocabSize];
    using logits = this.device.allocate(shape, 'fp32');
    await this.run(program, { logits }, inputsOf(batch));
    return { logits: await logits.toFloat32(), shape };
  }

  /**
   * Mean cross-entropy over the labels that count, and its gradient by every parameter: no dropout, no terms of
   * multi-token prediction or balance, so the parameters of prediction modules have zeros.
   *
   * @param inputIds - rows of token ids
   * @param labels - rows like `inputIds`, not shifted: position t is predicted from those before it; −100 is ignored
   * @returns gradients by Hugging Face name, in Hugging Face layout; of a weight that layers share, the sum, under the name
   *   that the first of them has it by; of factors and of weights that share some rows, under hadal's own names
   * @throws HadalError HADAL_ERR_DATA as `forward`, or when no label counts
   */
  async lossAndGradients(
    inputIds: readonly (readonly number[])[],
    labels: readonly (readonly number[])[],
  ): Promise<{ loss: number; gradients: Map<string, Floats> }> {
    const batch = this.#batch(inputIds, labels);
    if (batch.counts.labels === 0) throw dataError('labels that count after the first position', 'only -100');
    const program = this.program(`gradients ${batch.batch} ${batch.seqLen}`, (scope) => this.#traceLoss(scope, batch));
    const outputs = Object.fromEntries(
      program.outputs.map((spec) => [spec.name, this.device.allocate(spec.shape, spec.dtype)]),
    );
    try {
      const scale = Float32Array.of(1 / batch.counts.labels);
      await this.run(program, outputs, { ...inputsOf(batch), labels: batch.labels, scale });
      const loss = await (outputs.loss as Tensor).toFloat32();
      return { loss: loss[0] as number, gradients: await this.#readGradients(outputs) };
    } finally {
      for (const tensor of Object.values(outputs)) tensor.dispose();
    }
  }

  #traceLoss(scope: ParameterScope, { batch, seqLen }: Batch): void {
    const { graph } = scope;
    const { hidden, head } = this.model.forward(scope, batchInputs(graph, batch, seqLen, 0));
    const labels = reshape(graph.input('labels', [batch, seqLen], 'int32'), [-1]);
    const rows = reshape(hidden, [batch * seqLen, -1]);
    const { loss } = linearCrossEntropy(rows, head, labels, graph.input('scale', [1], 'fp32'));
    graph.output('loss', loss);
    const trained = [...scope.parameters.values()].filter(({ trainable }) => trainable).map(({ name }) => name);
    const found = gradients(
      loss,
      trained.map((name) => graph.slots.get(name) as Value),
    );
    for (const [i, name] of trained.entries()) graph.output(`gradient ${name}`, found[i] as Value);
  }

  async #readGradients(outputs: Readonly<Record<string, Tensor>>): Promise<Map<string, Floats>> {
    const found = new Map<string, Floats>();
    for (const parameter of this.#parameters.values()) {
      if (!parameter.trainable) continue;
      const gradient = outputs[`gradient ${parameter.name}`];
      for (const part of shownParts(parameter)) {
        const data = gradient
          ? toFloat32(formatOf(gradient), await readPart(gradient, part))
          : new Float32Array(sizeOf(part.shape));
        found.set(part.name, { data, shape: part.shape });
      }
    }
    return found;
  }

  /** Writes a directory that `loadModel` and `transformers` open. @throws HadalError HADAL_ERR_IO */
  async save(dir: string): Promise<void> {
    this.#requireLive();
    const tokenizer = this.tokenizer?.files ?? null;
    await saveModelDirectory(dir, this.model, this.tensors, { tokenizer, generation: this.generation });
  }

  /**
   * A program over the model's parameters, compiled when first asked for.
   *
   * @param key - says all that `trace` and `pass` depend on
   * @param pass - what becomes of the traced graph before it is compiled
   * @internal
   */
  program(key: string, trace: (scope: ParameterScope) => void, pass: Pass = (graph) => graph): Program {
    this.#requireLive();
    const program = this.#programs.get(key) ?? this.#compile(trace, pass);
    this.#programs.delete(key);
    this.#programs.set(key, program);
    if (this.#programs.size > programLimit) this.#programs.delete(this.#programs.keys().next().value as string);
    return program;
  }

  #compile(trace: (scope: ParameterScope) => void, pass: Pass): Program {
    const graph = new Graph();
    trace(new ParameterScope(graph, new Map(), '', this.#dtype));
    return this.device.load(compile(pass(graph), this.device.target));
  }

  /** Runs a program with the parameters and further slots. @internal */
  async run(program: Program, slots: Record<string, Tensor>, inputs: Record<string, NodeJS.TypedArray>): Promise<void> {
    this.#requireLive();
    await this.device.run([{ program, slots: { ...Object.fromEntries(this.tensors), ...slots }, inputs }]);
  }

  #batch(ids: readonly (readonly number[])[], labels?: readonly (readonly number[])[]): Batch {
    this.#requireLive();
    if (ids.length === 0) throw dataError('at least one row of token ids', 'none');
    for (const [i, row] of ids.entries()) this.checkTokens(row, `row ${i}`);
    for (const [i, row] of (labels ?? []).entries()) {
      const wrong = row.find((id) => id !== -100 && !this.#isToken(id));
      if (wrong !== undefined) throw dataError(`labels below ${this.model.vocabSize} or -100`, `${wrong} in row ${i}`);
    }
    return batchFromRows(ids, labels ? { labels } : {});
  }

  /** @throws HadalError HADAL_ERR_DATA for ids outside of the vocabulary, none at all or more than the model allows @internal */
  checkTokens(ids: readonly number[], what: string): void {
    const { vocabSize, maxPositions } = this.model;
    if (ids.length === 0) throw dataError('token ids', `none in ${what}`);
    if (ids.length > maxPositions) throw dataError(`at most ${maxPositions} tokens`, `${ids.length} in ${what}`);
    const wrong = ids.find((id) => !this.#isToken(id));
    if (wrong !== undefined) throw dataError(`token ids from 0 to ${vocabSize - 1}`, `${wrong} in ${what}`);
  }

  #isToken = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < this.model.vocabSize;

  #requireLive(): void {
    if (this.#isDisposed)
      throw new HadalError('HADAL_ERR_DISPOSED', '[model] expected a live model, got a disposed one');
  }

  /** Frees the weights; what is in progress rejects with HADAL_ERR_DISPOSED. More than once is harmless. */
  dispose(): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    this.#programs.clear();
    if (!this.#owns) return;
    for (const tensor of this.tensors.values()) tensor.dispose();
    this.device.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const inputsOf = ({ tokens, positions, docIds }: Batch) => ({ tokens, positions, docIds });

function dataError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[model] expected ${expected}, got ${got}`);
}

/** A session of one's own from what {@link openModel} opens; whoever makes it disposes of it. */
export async function openSession(path: string, options: SessionOptions = {}): Promise<Session> {
  return new Session(await openModel(path, options), { owns: true });
}

/**
 * Opens a Hugging Face directory (config.json, safetensors, tokenizer where there is one) or a GGUF file on a device of
 * its own.
 *
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_CHECKPOINT, HADAL_ERR_FORMAT, HADAL_ERR_IO, HADAL_ERR_DEVICE, HADAL_ERR_DTYPE
 */
export async function openModel(path: string, options: SessionOptions = {}): Promise<SessionParts> {
  const dtype = parseDType(options.dtype ?? 'fp32');
  if (!isFloat(dtype))
    throw new HadalError('HADAL_ERR_DTYPE', `[model] expected dtype fp32, bf16 or fp16, got ${dtype}`);
  const source = await openModelSource(path);
  const { model, generation } = source;
  const tokenizer = await source.tokenizer();
  if (tokenizer && tokenizer.vocabSize > model.vocabSize) {
    throw new HadalError(
      'HADAL_ERR_CHECKPOINT',
      `[model] expected a tokenizer of at most ${model.vocabSize} ids in ${path}, got ${tokenizer.vocabSize}`,
    );
  }
  await using parameters = await openParameters(source);
  const { threads, pinThreads = false } = options;
  const device = openDevice(options.device ?? 'auto', { pinThreads, ...(threads !== undefined && { threads }) });
  const tensors = new Map<string, Tensor>();
  try {
    for (const doubt of await trustDevice(device)) process.emitWarning(doubt);
    for (const { name, shape, dtype: own } of parametersOf(model, dtype).values())
      tensors.set(name, device.allocate(shape, own));
    await parameters.load(tensors);
    return { model, tensors, device, tokenizer, generation };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    device.dispose();
    throw error;
  }
}
