// Tensors between hadal and TensorFlow.js. Both sides are row-major and dense.
import type { DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape, sizeOf } from '../core/shape.js';
import { fromFloat32, toFloat32 } from '../formats/convert.js';
import type { Device } from '../runtime/device.js';
import { Tensor } from '../runtime/tensor.js';
import { alignedArray } from './aligned-array.js';
import { loadTensorflow, type Tensorflow, type TfDType, type TfTensor } from './tensorflow.js';

/** An array's class says the number format: fp32, int32, or bool as bytes 0 and 1. */
export type NumberArray = Float32Array | Int32Array | Uint8Array;

/** Numbers in JavaScript's memory, row-major: what `lossAndGradients` and other calls give, for example. */
export interface Numbers {
  data: NumberArray;
  shape: Shape;
}

/**
 * A `tf.Tensor` with the same numbers: fp32, bf16 and fp16 become float32, int32 stays, uint8 (0 and 1) becomes bool.
 *
 * The numbers are copied once, into memory of the new tensor's own that begins at a multiple of 64 bytes, so that
 * tfjs-node uses it in place instead of copying once more. It lives as long as the `tf.Tensor`, which is one of the
 * TensorFlow.js that {@link loadTensorflow} finds.
 *
 * @param source - a tensor of a device, or an array with its shape
 * @throws HadalError HADAL_ERR_DTYPE for other number formats, HADAL_ERR_SHAPE when array and shape do not fit,
 *   HADAL_ERR_DISPOSED, and what {@link loadTensorflow} throws
 */
export function toTfjs(source: Tensor | Numbers): Promise<TfTensor>;
/** The same with the caller's TensorFlow.js module `tf`. */
export function toTfjs<T extends TfTensor>(source: Tensor | Numbers, tf: Tensorflow<T>): Promise<T>;
export async function toTfjs(source: Tensor | Numbers, tf?: Tensorflow): Promise<TfTensor> {
  const data = source instanceof Tensor ? await readTensor(source) : copyOf(source);
  return (tf ?? (await loadTensorflow())).tensor(data, [...source.shape], dtypeOf(data));
}

/**
 * A copy of a `tf.Tensor`'s numbers in JavaScript's memory; the tensor is left as it is.
 *
 * @throws HadalError HADAL_ERR_DTYPE for strings and complex numbers
 */
export function fromTfjs(tensor: TfTensor): Promise<Numbers>;
/**
 * A copy of a `tf.Tensor` on a device; the tensor is left as it is.
 *
 * @param device - where the copy shall live, `model.device` for example
 * @param dtype - number format there: 'fp32' (default), 'bf16' or 'fp16' for float32; int32 stays, bool becomes uint8
 * @throws HadalError HADAL_ERR_DTYPE for strings, complex numbers, or a format that the numbers do not have;
 *   HADAL_ERR_DISPOSED
 */
export function fromTfjs(tensor: TfTensor, device: Device, dtype?: DType): Promise<Tensor>;
export async function fromTfjs(tensor: TfTensor, device?: Device, dtype?: DType): Promise<Numbers | Tensor> {
  const data = await readTfjs(tensor);
  const shape = [...tensor.shape];
  // A backend may hand out the very array it computes with.
  if (!device) return { data: data.slice(), shape };
  const target = dtype ?? nativeDTypes[dtypeOf(data)];
  const bytes = encode(data, target);
  const copy = device.allocate(shape, target);
  try {
    await copy.write(bytes);
    return copy;
  } catch (error) {
    copy.dispose();
    throw error;
  }
}

/** The numbers of a `tf.Tensor`, maybe in the backend's own array: to be read, not kept. */
export async function readTfjs(tensor: TfTensor): Promise<NumberArray> {
  const { dtype, shape } = tensor;
  if (dtype !== 'float32' && dtype !== 'int32' && dtype !== 'bool') {
    throw new HadalError('HADAL_ERR_DTYPE', `[tfjs] expected a tensor of float32, int32 or bool, got ${dtype}`);
  }
  if (tensor.isDisposed) {
    throw new HadalError(
      'HADAL_ERR_DISPOSED',
      `[tfjs] expected a live tf.Tensor, got a disposed one of shape ${formatShape(shape)}`,
    );
  }
  const data = (await tensor.data()) as NumberArray;
  if (dtypeOf(data) !== dtype || data.length !== sizeOf(shape)) {
    const got = `${data.constructor.name} of ${data.length}`;
    throw new HadalError('HADAL_ERR_SHAPE', `[tfjs] expected ${dtype} ${formatShape(shape)}, its backend gave ${got}`);
  }
  return data;
}

const nativeDTypes = { float32: 'fp32', int32: 'int32', bool: 'uint8' } as const;
const floatFormats = { bf16: 'BF16', fp16: 'F16' } as const;

/** Raw contents of a device's tensor of format `target`. */
function encode(data: NumberArray, target: DType): NumberArray {
  if (target === nativeDTypes[dtypeOf(data)]) return data;
  if (data instanceof Float32Array && (target === 'bf16' || target === 'fp16')) {
    return fromFloat32(floatFormats[target], data);
  }
  throw new HadalError('HADAL_ERR_DTYPE', `[tfjs] expected numbers that can become ${target}, got ${dtypeOf(data)}`);
}

async function readTensor(tensor: Tensor): Promise<NumberArray> {
  const { dtype, size, bytes } = tensor;
  switch (dtype) {
    case 'fp32':
      return tensor.read(alignedArray<Float32Array>(Float32Array, size));
    case 'int32':
      return tensor.read(alignedArray<Int32Array>(Int32Array, size));
    case 'uint8':
      return checkedBools(await tensor.read(alignedArray<Uint8Array>(Uint8Array, size)));
    default:
      return aligned(toFloat32(floatFormats[dtype], await tensor.read(new Uint8Array(bytes))));
  }
}

function copyOf({ data, shape }: Numbers): NumberArray {
  const isShape = shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0);
  const dtype = dtypeOf(data);
  if (!isShape || sizeOf(shape) !== data.length) {
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[tfjs] expected as many numbers as shape ${formatShape(shape)} has, got ${data.length}`,
    );
  }
  return dtype === 'bool' ? checkedBools(aligned(data)) : aligned(data);
}

function aligned(data: NumberArray): NumberArray {
  const type = data.constructor as typeof Float32Array;
  const copy = alignedArray<Float32Array>(type, data.length);
  copy.set(data);
  return copy;
}

/** TensorFlow takes a byte for a truth value as it is, and what it does with a 2 is not defined. */
function checkedBools<T extends NumberArray>(data: T): T {
  const wrong = data.find((byte) => byte > 1);
  if (wrong === undefined) return data;
  throw new HadalError('HADAL_ERR_DTYPE', `[tfjs] expected bytes of 0 and 1 for a bool tensor, got ${wrong}`);
}

function dtypeOf(data: unknown): TfDType {
  if (data instanceof Float32Array) return 'float32';
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof Uint8Array) return 'bool';
  const got = (data as object | null | undefined)?.constructor.name ?? String(data);
  throw new HadalError('HADAL_ERR_DTYPE', `[tfjs] expected a Float32Array, Int32Array or Uint8Array, got ${got}`);
}
