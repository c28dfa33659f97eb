import type { DType } from '../../src/core/dtype.js';
import { fromFloat32, toFloat32 } from '../../src/formats/convert.js';

const fileTypes = { fp32: 'F32', bf16: 'BF16', fp16: 'F16' } as const;

/** Numbers as a dtype stores them, in the typed array that programs take. */
export function fromFloats(data: ArrayLike<number>, dtype: DType): NodeJS.TypedArray {
  if (dtype === 'fp32') return Float32Array.from(data);
  if (dtype === 'int32') return Int32Array.from(data);
  if (dtype === 'uint8') return Uint8Array.from(data);
  return Uint8Array.from(fromFloat32(fileTypes[dtype], Float32Array.from(data)));
}

/** The numbers that stored bytes stand for. */
export function toFloats(bytes: NodeJS.TypedArray, dtype: DType): Float64Array {
  const raw = new Uint8Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  if (dtype === 'int32') return Float64Array.from(new Int32Array(raw.buffer));
  if (dtype === 'uint8') return Float64Array.from(raw);
  return Float64Array.from(toFloat32(fileTypes[dtype], raw));
}
