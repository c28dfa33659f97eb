import { loadAddon } from '../addon/addon.js';

/**
 * Where memory must begin for TensorFlow to use it in place: `TF_NewTensor` copies what does not lie at a multiple of
 * `EIGEN_MAX_ALIGN_BYTES`, which is 64 where AVX-512 is compiled in and less elsewhere. V8 aligns to 16.
 */
export const alignmentBytes = 64;

interface ArrayType<T> {
  new (buffer: ArrayBuffer, byteOffset: number, length: number): T;
  readonly BYTES_PER_ELEMENT: number;
}

/**
 * Zeros whose memory begins at a multiple of {@link alignmentBytes}. It is JavaScript's own memory: whoever holds the
 * array, or TensorFlow's reference to it, keeps it alive.
 */
export function alignedArray<T extends NodeJS.TypedArray>(type: ArrayType<T>, length: number): T {
  const buffer = new ArrayBuffer(length * type.BYTES_PER_ELEMENT + alignmentBytes);
  const beyond = loadAddon().misalignment(new Uint8Array(buffer));
  return new type(buffer, (alignmentBytes - beyond) % alignmentBytes, length);
}
