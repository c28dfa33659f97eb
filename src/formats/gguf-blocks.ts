// Element types of GGUF tensors, and the numbers behind their quantised blocks.
// A block is a run of a row's elements that share a scale d (fp16), some also a minimum m; `q` are the codes.
import { HadalError } from '../core/errors.js';
import { fp16Table, toFloat32 } from './convert.js';

/** Reads the elements of one block into `out`. Arithmetic is fp32, rounded after every operation as ggml does. */
type DecodeBlock = (block: Uint8Array, out: Float32Array) => void;

/** An element type: elements and bytes a block, and how it is read where it is. */
export interface GgufType {
  readonly name: string;
  readonly elements: number;
  readonly bytes: number;
}

const fround = Math.fround;
const int8 = (byte: number): number => (byte << 24) >> 24;
const half = (block: Uint8Array, at: number): number =>
  fp16Table()[(block[at] as number) | ((block[at + 1] as number) << 8)] as number;

/** d · (q − zero): 32 codes of 4 bits, the low halves of 16 bytes first; with a fifth bit each from a word before them. */
const symmetric =
  (zero: number, fifthBits: boolean): DecodeBlock =>
  (block, out) => {
    const d = half(block, 0);
    codes32(block, 2, fifthBits, (q, i) => {
      out[i] = d * (q - zero);
    });
  };

/** d · q + m. */
const withMinimum =
  (fifthBits: boolean): DecodeBlock =>
  (block, out) => {
    const [d, m] = [half(block, 0), half(block, 2)];
    codes32(block, 4, fifthBits, (q, i) => {
      out[i] = fround(d * q) + m;
    });
  };

function codes32(block: Uint8Array, at: number, fifthBits: boolean, put: (q: number, i: number) => void): void {
  const nibbles = fifthBits ? at + 4 : at;
  const fifth = (i: number) => (fifthBits ? (((block[at + (i >> 3)] as number) >> (i & 7)) & 1) << 4 : 0);
  for (let i = 0; i < 16; i++) {
    const byte = block[nibbles + i] as number;
    put((byte & 15) | fifth(i), i);
    put((byte >> 4) | fifth(i + 16), i + 16);
  }
}

const q8_0: DecodeBlock = (block, out) => {
  const d = half(block, 0);
  for (let i = 0; i < 32; i++) out[i] = d * int8(block[2 + i] as number);
};

/** Scale and minimum of sub-block j of 8, 6 bits each, packed into 12 bytes. */
function scaleAndMinimum(packed: Uint8Array, j: number): [number, number] {
  const byte = (i: number) => packed[i] as number;
  if (j < 4) return [byte(j) & 63, byte(j + 4) & 63];
  return [(byte(j + 4) & 15) | ((byte(j - 4) >> 6) << 4), (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4)];
}

/** 256 elements in 8 sub-blocks of 32: d · scale · q − dmin · minimum; q of 4 bits, or of 5 with a plane of high bits. */
const kBlock =
  (fifthBits: boolean): DecodeBlock =>
  (block, out) => {
    const [d, dmin] = [half(block, 0), half(block, 2)];
    const packed = block.subarray(4, 16);
    const nibbles = block.subarray(fifthBits ? 48 : 16);
    for (let j = 0; j < 8; j++) {
      const [scale, minimum] = scaleAndMinimum(packed, j);
      const [dj, mj] = [fround(d * scale), fround(dmin * minimum)];
      for (let i = 0; i < 32; i++) {
        const byte = nibbles[(j >> 1) * 32 + i] as number;
        const low = j & 1 ? byte >> 4 : byte & 15;
        const high = fifthBits ? (((block[16 + i] as number) >> j) & 1) << 4 : 0;
        out[j * 32 + i] = fround(dj * (low | high)) - mj;
      }
    }
  };

/** 256 elements in 16 sub-blocks of 16: d · scale · (q − 32), q of 4 low and 2 high bits. */
const q6K: DecodeBlock = (block, out) => {
  const d = half(block, 208);
  for (let i = 0; i < 256; i++) {
    const [part, j, k] = [i >> 7, (i >> 5) & 3, i & 31];
    const low = block[part * 64 + (j & 1) * 32 + k] as number;
    const high = ((block[128 + part * 32 + k] as number) >> (2 * j)) & 3;
    const q = (j & 2 ? low >> 4 : low & 15) | (high << 4);
    out[i] = fround(d * int8(block[192 + (i >> 4)] as number)) * (q - 32);
  }
};

type Row = readonly [id: number, name: string, elements: number, bytes: number, decode?: DecodeBlock];

/** All types by ggml's numbers; those that are not read are there so that a message can name them. */
const rows: readonly Row[] = [
  [0, 'F32', 1, 4],
  [1, 'F16', 1, 2],
  [2, 'Q4_0', 32, 18, symmetric(8, false)],
  [3, 'Q4_1', 32, 20, withMinimum(false)],
  [6, 'Q5_0', 32, 22, symmetric(16, true)],
  [7, 'Q5_1', 32, 24, withMinimum(true)],
  [8, 'Q8_0', 32, 34, q8_0],
  [9, 'Q8_1', 32, 40],
  [10, 'Q2_K', 256, 84],
  [11, 'Q3_K', 256, 110],
  [12, 'Q4_K', 256, 144, kBlock(false)],
  [13, 'Q5_K', 256, 176, kBlock(true)],
  [14, 'Q6_K', 256, 210, q6K],
  [15, 'Q8_K', 256, 292],
  [16, 'IQ2_XXS', 256, 66],
  [17, 'IQ2_XS', 256, 74],
  [18, 'IQ3_XXS', 256, 98],
  [19, 'IQ1_S', 256, 50],
  [20, 'IQ4_NL', 32, 18],
  [21, 'IQ3_S', 256, 110],
  [22, 'IQ2_S', 256, 82],
  [23, 'IQ4_XS', 256, 136],
  [24, 'I8', 1, 1],
  [25, 'I16', 1, 2],
  [26, 'I32', 1, 4],
  [27, 'I64', 1, 8],
  [28, 'F64', 1, 8],
  [29, 'IQ1_M', 256, 56],
  [30, 'BF16', 1, 2],
  [34, 'TQ1_0', 256, 54],
  [35, 'TQ2_0', 256, 66],
  [39, 'MXFP4', 32, 17],
];

/** Element types by the number that stands in the file. */
export const ggufTypes: ReadonlyMap<number, GgufType> = new Map(
  rows.map(([id, name, elements, bytes]) => [id, { name, elements, bytes }]),
);

const decoders = new Map(rows.flatMap(([, name, , , decode]) => (decode ? [[name, decode] as const] : [])));
const plain = ['F32', 'F16', 'BF16', 'F64'] as const;

/**
 * Numbers of a tensor's bytes, which hold whole blocks.
 *
 * @param what - names the tensor in the message
 * @throws HadalError HADAL_ERR_DTYPE for a type that is not read
 */
export function dequantize({ name, elements, bytes }: GgufType, data: Uint8Array, what: string): Float32Array {
  const float = plain.find((dtype) => dtype === name);
  if (float) return toFloat32(float, data);
  const decode = decoders.get(name);
  if (!decode) {
    const known = [...plain, ...decoders.keys()].join(', ');
    throw new HadalError(
      'HADAL_ERR_DTYPE',
      `[gguf] expected ${what} of a type that is read (${known}), got ${name}; convert the model to one of these`,
    );
  }
  const blocks = data.byteLength / bytes;
  const numbers = new Float32Array(blocks * elements);
  for (let i = 0; i < blocks; i++) {
    decode(data.subarray(i * bytes, (i + 1) * bytes), numbers.subarray(i * elements, (i + 1) * elements));
  }
  return numbers;
}
