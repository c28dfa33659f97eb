// Where models come from: a Hugging Face directory, or a GGUF file.
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sameShape } from '../core/shape.js';
import type { Tokenizer } from '../data/tokenizer.js';
import type { SafetensorsDType } from '../formats/safetensors.js';
import type { ElementRange } from '../formats/tensor-pieces.js';
import { type Model, parametersOf } from '../models/model.js';
import type { Parameter } from '../nn/parameters.js';
import { ggufSource } from './gguf-source.js';
import { directorySource, type GenerationConfig } from './model-directory.js';
import { OpenParameters, type ParameterTarget } from './open-parameters.js';

/** A model on disk. Nothing of it stays open. */
export interface ModelSource {
  readonly path: string;
  readonly model: Model;
  /** generation_config.json, null where there is none. */
  readonly generation: GenerationConfig | null;
  /** null where there is none. @throws HadalError HADAL_ERR_FORMAT, HADAL_ERR_IO */
  tokenizer(): Promise<Tokenizer | null>;
  /** @throws HadalError HADAL_ERR_FORMAT for damaged files, HADAL_ERR_CONFIG, HADAL_ERR_IO */
  openTensors(): Promise<SourceTensors>;
}

/** The open tensors of a source, under the names and in the layout of Hugging Face. */
export interface SourceTensors extends AsyncDisposable {
  readonly shapes: ReadonlyMap<string, Shape>;
  /** Factors of weights, whose products are among the former. */
  readonly factors: ReadonlyMap<string, Shape>;
  /** Numbers of a tensor, or some of them, in a format of the caller's choice. @throws HadalError HADAL_ERR_FORMAT, HADAL_ERR_DTYPE */
  read(name: string, format: SafetensorsDType, range?: ElementRange): Promise<Uint8Array>;
}

/**
 * Finds out what model a path holds: a directory with config.json, or a file that ends with `.gguf`.
 *
 * @throws HadalError HADAL_ERR_CONFIG for a model that is not known, HADAL_ERR_FORMAT, HADAL_ERR_IO
 */
export function openModelSource(path: string): Promise<ModelSource> {
  return isGguf(path) ? ggufSource(path) : directorySource(path);
}

/** Whether a path names a GGUF file. */
export const isGguf = (path: string): boolean => path.toLowerCase().endsWith('.gguf');

/**
 * Fills a model's tensors from a source: whatever format it has becomes the tensors' own.
 *
 * @param tensors - by the names of `parametersOf(model)`, all of them; of shares only what they hold is read
 * @param model - the source's own unless given; it may share or factorise weights that the source does not
 * @returns what became of weights that are now shared or factorised
 * @throws HadalError as {@link openParameters}
 */
export async function loadParameters(
  source: ModelSource,
  tensors: ReadonlyMap<string, ParameterTarget>,
  model: Model = source.model,
): Promise<string[]> {
  await using parameters = await openParameters(source, model);
  return await parameters.load(tensors);
}

/**
 * Opens a source's tensors and compares them with what its model calls for, before anything is allocated for them.
 *
 * @throws HadalError HADAL_ERR_CHECKPOINT naming tensors that are missing, unexpected or of another shape;
 *   HADAL_ERR_FORMAT for damaged files, HADAL_ERR_IO
 */
export async function openParameters(source: ModelSource, model: Model = source.model): Promise<OpenParameters> {
  const files = await source.openTensors();
  try {
    // The source has every tensor whole, also of weights that are shared or factorised.
    const parameters = [...parametersOf(source.model.economy?.of ?? source.model).values()];
    const names = namesIn(files, parameters);
    checkTensors(source, files, parameters, names);
    return new OpenParameters(source, files, names, model);
  } catch (error) {
    await files[Symbol.asyncDispose]();
    throw error;
  }
}

/** The name a source has each tensor under: GPT-2 was also published without its `transformer.` prefix. */
function namesIn({ shapes }: SourceTensors, parameters: readonly Parameter[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name } of parameters.flatMap(({ parts }) => parts)) {
    const bare = name.replace(/^transformer\./, '');
    if (shapes.has(name)) found.set(name, name);
    else if (shapes.has(bare)) found.set(name, bare);
  }
  return found;
}

/** Tensors that older checkpoints hold beside their parameters: tables and masks, and the head of a tied embedding. */
const isHarmless = (name: string, tied: boolean) =>
  /(^|\.)(rotary_emb\.inv_freq|attn\.masked_bias|attn\.bias)$/.test(name) || (tied && name === 'lm_head.weight');

function checkTensors(
  { path, model }: ModelSource,
  { shapes }: SourceTensors,
  parameters: readonly Parameter[],
  names: ReadonlyMap<string, string>,
): void {
  const refuse = (expected: string, got: string) => {
    throw new HadalError('HADAL_ERR_CHECKPOINT', `[model] expected ${expected} in ${path}, got ${got}`);
  };
  const parts = parameters.flatMap((parameter) => parameter.parts);
  const missing = parts.filter(({ name }) => !names.has(name)).map(({ name }) => name);
  if (missing.length > 0) {
    const firstPrediction = model.layers - model.mtpDepth;
    const isPrediction = (name: string) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1]) >= firstPrediction;
    const advice = missing.every(isPrediction)
      ? '; set num_nextn_predict_layers to 0 in config.json if the directory has no MTP module'
      : '';
    refuse('every tensor that its configuration calls for', `none named ${someOf(missing)}${advice}`);
  }
  for (const { name, shape } of parts) {
    const found = shapes.get(names.get(name) as string) as Shape;
    if (!sameShape(found, shape)) refuse(`'${name}' of shape ${formatShape(shape)}`, formatShape(found));
  }
  const used = new Set([...names.values(), ...parameters.flatMap(({ copies }) => copies.map(({ name }) => name))]);
  const tied = !parts.some(({ name }) => name === 'lm_head.weight');
  const unexpected = [...shapes.keys()].filter((name) => !used.has(name) && !isHarmless(name, tied));
  if (unexpected.length > 0) refuse('only tensors that its configuration calls for', `also ${someOf(unexpected)}`);
}

function someOf(names: readonly string[]): string {
  const shown = names.slice(0, 4).map((name) => `'${name}'`);
  return names.length > 4 ? `${shown.join(', ')} and ${names.length - 4} more` : shown.join(', ');
}
