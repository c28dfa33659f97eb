import { HadalError } from '../core/errors.js';
import { formatShape } from '../core/shape.js';
import { type SafetensorsDType, safetensorsDTypes } from './safetensors.js';

// All numbers are little-endian, as in the files and on every machine hadal runs on.

/** bf16 is the upper half of fp32. */
function bf16ToFp32(source: Uint16Array, target: Float32Array): void {
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
  for (let i = 0; i < source.length; i++) bits[i] = (source[i] as number) << 16;
}

/** Rounds to nearest, ties to even; NaN stays NaN. */
function fp32ToBf16(source: Float32Array, target: Uint16Array): void {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i] as number;
    const nan = (u & 0x7fffffff) > 0x7f800000;
    target[i] = nan ? (u >>> 16) | 0x40 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
  }
}

/**
 * Value of a small float: `exponentBits` after the sign, the rest mantissa. `special` gives the meaning of the highest
 * exponent, which fp16 and fp8 e4m3 spend differently.
 */
function smallFloat(code: number, mantissaBits: number, bias: number, exponentMask: number): number {
  const mantissa = code & ((1 << mantissaBits) - 1);
  const exponent = (code >> mantissaBits) & exponentMask;
  return exponent === 0
    ? mantissa * 2 ** (1 - bias - mantissaBits)
    : (mantissa + (1 << mantissaBits)) * 2 ** (exponent - bias - mantissaBits);
}

function fp16Value(code: number): number {
  const sign = code & 0x8000 ? -1 : 1;
  if ((code & 0x7c00) === 0x7c00) return code & 0x3ff ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * smallFloat(code, 10, 15, 0x1f);
}

/** e4m3fn: no infinities, S.1111.111 is NaN. Micikevicius et al. 2022, arXiv:2209.05433. */
function fp8Value(code: number): number {
  if ((code & 0x7f) === 0x7f) return Number.NaN;
  return (code & 0x80 ? -1 : 1) * smallFloat(code, 3, 7, 0xf);
}

const lazy = <T>(make: () => T): (() => T) => {
  let value: T | undefined;
  return () => {
    value ??= make();
    return value;
  };
};
/** Values of the fp16 codes, all 65536. */
export const fp16Table = lazy(() => Float32Array.from({ length: 65536 }, (_, code) => fp16Value(code)));
const fp8Table = lazy(() => Float32Array.from({ length: 256 }, (_, code) => fp8Value(code)));

function lookUp(table: Float32Array, source: Uint16Array | Uint8Array, target: Float32Array): void {
  for (let i = 0; i < source.length; i++) target[i] = table[source[i] as number] as number;
}

/**
 * Bits of |x| (given as fp32 bits without sign) in a float with `mantissaBits` and `bias`, to nearest, ties to even.
 * Too large numbers run on into the codes above the highest finite one; the caller says what those mean.
 */
function roundToSmall(u: number, mantissaBits: number, bias: number): number {
  const exponent = (u >>> 23) - 127 + bias;
  const shift = 23 - mantissaBits;
  if (exponent > 0) return (u + (1 << (shift - 1)) - 1 + ((u >>> shift) & 1) - ((127 - bias) << 23)) >>> shift;
  const drop = shift + 1 - exponent; // a subnormal result: the implicit one becomes explicit and moves right
  if (drop > 24) return 0;
  const mantissa = (u & 0x7fffff) | 0x800000;
  const kept = mantissa >>> drop;
  const rest = mantissa & ((1 << drop) - 1);
  const half = 1 << (drop - 1);
  return rest > half || (rest === half && kept & 1) ? kept + 1 : kept;
}

function fp32ToFp16(source: Float32Array, target: Uint16Array): void {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) {
    const u = (bits[i] as number) & 0x7fffffff;
    const sign = ((bits[i] as number) >>> 16) & 0x8000;
    target[i] = sign | (u > 0x7f800000 ? 0x7e00 : u >= 0x47800000 ? 0x7c00 : roundToSmall(u, 10, 15));
  }
}

/** Numbers that round beyond 448 become NaN, as in PyTorch: scale before converting. */
function fp32ToFp8(source: Float32Array, target: Uint8Array): void {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) {
    const u = (bits[i] as number) & 0x7fffffff;
    const sign = ((bits[i] as number) >>> 24) & 0x80;
    target[i] = sign | (u >= 0x43f00000 ? 0x7f : roundToSmall(u, 3, 7)); // 0x43f00000 is 480
  }
}

type ArrayOf<T> = {
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
  readonly BYTES_PER_ELEMENT: number;
};

/** The same bytes as another element type; copied only when they do not lie aligned. */
function viewAs<T>(type: ArrayOf<T>, bytes: Uint8Array): T {
  const aligned = bytes.byteOffset % type.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new type(aligned.buffer, aligned.byteOffset, bytes.byteLength / type.BYTES_PER_ELEMENT);
}

/**
 * Numbers of a tensor file as fp32. Formats narrower than fp32 convert exactly, wider ones round to nearest.
 *
 * @param bytes - little-endian; fp32 that lies aligned is returned as a view, not copied
 * @throws HadalError HADAL_ERR_DTYPE for formats that are not floats
 */
export function toFloat32(dtype: SafetensorsDType, bytes: Uint8Array): Float32Array {
  if (dtype === 'F32') return viewAs<Float32Array>(Float32Array, bytes);
  const target = new Float32Array(bytes.byteLength / safetensorsDTypes[dtype]);
  if (dtype === 'BF16') bf16ToFp32(viewAs<Uint16Array>(Uint16Array, bytes), target);
  else if (dtype === 'F16') lookUp(fp16Table(), viewAs<Uint16Array>(Uint16Array, bytes), target);
  else if (dtype === 'F8_E4M3') lookUp(fp8Table(), bytes, target);
  else if (dtype === 'F64') target.set(viewAs<Float64Array>(Float64Array, bytes));
  else throw notConvertible(dtype);
  return target;
}

/**
 * fp32 numbers in a tensor file's format, rounded to nearest, ties to even.
 *
 * @returns little-endian bytes; for F32 a view of `data`
 * @throws HadalError HADAL_ERR_DTYPE for formats that are not floats
 */
export function fromFloat32(dtype: SafetensorsDType, data: Float32Array): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const bytes = new Uint8Array(data.length * safetensorsDTypes[dtype]);
  if (dtype === 'BF16') fp32ToBf16(data, new Uint16Array(bytes.buffer));
  else if (dtype === 'F16') fp32ToFp16(data, new Uint16Array(bytes.buffer));
  else if (dtype === 'F8_E4M3') fp32ToFp8(data, bytes);
  else if (dtype === 'F64') new Float64Array(bytes.buffer).set(data);
  else throw notConvertible(dtype);
  return bytes;
}

function notConvertible(dtype: SafetensorsDType): HadalError {
  return new HadalError('HADAL_ERR_DTYPE', `[convert] expected one of F64, F32, BF16, F16, F8_E4M3, got ${dtype}`);
}

/**
 * Weights that DeepSeek-V3 stores as fp8 with a scale a block: w = q · scaleInv.
 *
 * @param data - [rows, cols] e4m3 codes
 * @param scaleInv - [⌈rows/block⌉, ⌈cols/block⌉]
 * @throws HadalError HADAL_ERR_SHAPE
 */
export function dequantizeFp8Blocks(
  data: Uint8Array,
  scaleInv: Float32Array,
  rows: number,
  cols: number,
  block = 128,
): Float32Array {
  const blockCols = Math.ceil(cols / block);
  const scales = Math.ceil(rows / block) * blockCols;
  if (data.length !== rows * cols || scaleInv.length !== scales) {
    const expected = `${rows * cols} codes and ${scales} scales for ${formatShape([rows, cols])}`;
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[convert] expected ${expected}, got ${data.length} and ${scaleInv.length}`,
    );
  }
  const table = fp8Table();
  const weights = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    const scaleRow = Math.floor(row / block) * blockCols;
    for (let blockCol = 0; blockCol < blockCols; blockCol++) {
      const scale = scaleInv[scaleRow + blockCol] as number;
      const end = row * cols + Math.min(cols, (blockCol + 1) * block);
      for (let i = row * cols + blockCol * block; i < end; i++)
        weights[i] = (table[data[i] as number] as number) * scale;
    }
  }
  return weights;
}
