// What a loaded model gives to and takes from TensorFlow.js. B rows, T tokens, V vocabulary.
import { HadalError } from '../core/errors.js';
import { nearest } from '../core/nearest.js';
import { formatShape, sameShape } from '../core/shape.js';
import { fromFloat32, toFloat32 } from '../formats/convert.js';
import { parametersOf } from '../models/model.js';
import { type ParameterPart, shownParts } from '../nn/parameters.js';
import type { Tensor } from '../runtime/tensor.js';
import { formatOf, readPart } from '../session/model-directory.js';
import type { Session } from '../session/session.js';
import { loadTensorflow, type Tensorflow, type TfTensor } from './tensorflow.js';
import { readTfjs, toTfjs } from './tensors.js';

/**
 * The model's forward pass, from and to the TensorFlow.js that `loadTensorflow()` finds.
 *
 * @param inputIds - B rows of token ids, or an int32 tensor of shape [T] or [B, T], which is left as it is
 * @returns logits, float32 [B, T, V]; whoever asks disposes of them
 * @throws HadalError what `model.forward` throws, HADAL_ERR_DTYPE and HADAL_ERR_SHAPE for another tensor of ids
 */
export function forwardTfjs(model: Session, inputIds: readonly (readonly number[])[] | TfTensor): Promise<TfTensor>;
/** The same with the caller's TensorFlow.js module `tf`. */
export function forwardTfjs<T extends TfTensor>(
  model: Session,
  inputIds: readonly (readonly number[])[] | TfTensor,
  tf: Tensorflow<T>,
): Promise<T>;
export async function forwardTfjs(
  model: Session,
  inputIds: readonly (readonly number[])[] | TfTensor,
  tf?: Tensorflow,
): Promise<TfTensor> {
  const { logits: data, shape } = await model.forward('dtype' in inputIds ? await rowsOf(inputIds) : inputIds);
  return toTfjs({ data, shape }, tf ?? (await loadTensorflow()));
}

async function rowsOf(ids: TfTensor): Promise<number[][]> {
  const { dtype, shape } = ids;
  if (dtype !== 'int32') throw new HadalError('HADAL_ERR_DTYPE', `[tfjs] expected int32 token ids, got ${dtype}`);
  if (shape.length !== 1 && shape.length !== 2) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[tfjs] expected token ids of shape [T] or [B, T], got ${formatShape(shape)}`,
    );
  }
  const tokens = shape.at(-1) as number;
  const rows = shape.length === 1 ? 1 : (shape[0] as number);
  const data = await readTfjs(ids);
  return Array.from({ length: rows }, (_, b) => [...data.subarray(b * tokens, (b + 1) * tokens)]);
}

/**
 * Copies of the model's weights as float32 tensors, by Hugging Face name, in Hugging Face layout.
 *
 * @param options.names - only these; all unless given
 * @param options.tf - the TensorFlow.js module; `loadTensorflow()`'s unless given
 * @returns tensors that whoever asks disposes of
 * @throws HadalError HADAL_ERR_CHECKPOINT for a name that the model does not have, HADAL_ERR_DISPOSED
 */
export async function weightsToTfjs<T extends TfTensor = TfTensor>(
  model: Session,
  options: { names?: Iterable<string>; tf?: Tensorflow<T> } = {},
): Promise<Map<string, T>> {
  const { names, tf } = options;
  const module = tf ?? (await loadTensorflow<Tensorflow<T>>());
  const weights = weightsOf(model);
  const found = new Map<string, T>();
  try {
    for (const name of names ?? weights.keys()) {
      const { tensor, part } = weightOf(weights, name);
      const data = toFloat32(formatOf(tensor), await readPart(tensor, part));
      found.set(name, await toTfjs({ data, shape: part.shape }, module));
    }
    return found;
  } catch (error) {
    for (const tensor of found.values()) tensor.dispose();
    throw error;
  }
}

/**
 * Sets weights of the model from float32 tensors, which are left as they are. Names and shapes are checked before the
 * first one is written. Not while a text is generated: a generation reads the weights when it begins.
 *
 * @param weights - by Hugging Face name, in Hugging Face layout; what is not named stays
 * @throws HadalError HADAL_ERR_CHECKPOINT for a name or shape that the model does not have, HADAL_ERR_DTYPE,
 *   HADAL_ERR_DISPOSED
 */
export async function weightsFromTfjs(
  model: Session,
  weights: ReadonlyMap<string, TfTensor> | Readonly<Record<string, TfTensor>>,
): Promise<void> {
  const own = weightsOf(model);
  const entries = weights instanceof Map ? [...weights] : Object.entries(weights);
  const writes = entries.map(([name, source]) => {
    const { tensor, part } = weightOf(own, name);
    if (source.dtype !== 'float32') {
      throw new HadalError('HADAL_ERR_DTYPE', `[tfjs] expected '${name}' as float32, got ${source.dtype}`);
    }
    if (!sameShape(source.shape, part.shape)) {
      throw new HadalError(
        'HADAL_ERR_CHECKPOINT',
        `[tfjs] expected '${name}' of shape ${formatShape(part.shape)}, got ${formatShape(source.shape)}`,
      );
    }
    return { source, tensor, part };
  });
  for (const { source, tensor, part } of writes) {
    const bytes = fromFloat32(formatOf(tensor), (await readTfjs(source)) as Float32Array);
    await tensor.write(bytes, (part.offset * tensor.bytes) / tensor.size);
  }
}

interface Weight {
  tensor: Tensor;
  part: ParameterPart;
}

function weightsOf({ model, tensors }: Session): Map<string, Weight> {
  const parameters = [...parametersOf(model).values()];
  return new Map(
    parameters.flatMap((parameter) =>
      shownParts(parameter).map(
        (part) => [part.name, { tensor: tensors.get(parameter.name) as Tensor, part }] as const,
      ),
    ),
  );
}

function weightOf(weights: ReadonlyMap<string, Weight>, name: string): Weight {
  const weight = weights.get(name);
  if (weight) return weight;
  const near = nearest(name, [...weights.keys()]);
  const hint = near ? `; did you mean '${near}'?` : '';
  throw new HadalError(
    'HADAL_ERR_CHECKPOINT',
    `[tfjs] expected the name of a weight of the model, got '${name}'${hint}`,
  );
}
