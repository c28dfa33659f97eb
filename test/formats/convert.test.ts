import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeFp8Blocks, fromFloat32, toFloat32 } from '../../src/formats/convert.js';

type Goldens = Record<'fp32' | 'BF16' | 'F16' | 'F8_E4M3', number[]> & { 'F8_E4M3 values': (number | null)[] };
const goldens = JSON.parse(readFileSync(new URL('./convert-goldens.json', import.meta.url), 'utf8')) as Goldens;
const fp32 = new Float32Array(Int32Array.from(goldens.fp32).buffer);

describe('fromFloat32', () => {
  it.each(['BF16', 'F16', 'F8_E4M3'] as const)('rounds to %s as PyTorch does', (dtype) => {
    const bytes = fromFloat32(dtype, fp32);
    const codes = dtype === 'F8_E4M3' ? Int8Array.from(bytes) : new Int16Array(bytes.buffer);
    const nan = toFloat32(dtype, fromFloat32(dtype, fp32)).map((x) => Number(Number.isNaN(x)));
    const differing = [...codes].filter((code, i) => code !== goldens[dtype][i] && nan[i] === 0);
    expect(differing).toEqual([]);
    expect(codes.length).toBe(goldens[dtype].length);
  });

  it('keeps NaN in every format', () => {
    for (const dtype of ['F32', 'F64', 'BF16', 'F16', 'F8_E4M3'] as const) {
      const [value] = toFloat32(dtype, fromFloat32(dtype, Float32Array.of(Number.NaN)));
      expect(value).toBeNaN();
    }
  });

  it('converts every 16-bit code there and back unchanged', () => {
    for (const dtype of ['BF16', 'F16'] as const) {
      const codes = Uint16Array.from({ length: 65536 }, (_, i) => i);
      const values = toFloat32(dtype, new Uint8Array(codes.buffer));
      const again = new Uint16Array(fromFloat32(dtype, values).buffer);
      const changed = [...codes].filter((code, i) => again[i] !== code && !Number.isNaN(values[i] as number));
      expect(changed).toEqual([]);
    }
  });

  it('keeps every fp32 number through F64', () => {
    const same = fc.property(fc.float32Array({ noNaN: true }), (data) => {
      expect(toFloat32('F64', fromFloat32('F64', data))).toEqual(data);
    });
    fc.assert(same);
  });

  it('refuses formats that are not floats', () => {
    expect(() => fromFloat32('I64', fp32)).toThrow(/got I64/);
    expect(() => toFloat32('U8', new Uint8Array(4))).toThrow(/got U8/);
  });
});

describe('toFloat32', () => {
  it('knows all 256 values of fp8 e4m3', () => {
    const values = toFloat32(
      'F8_E4M3',
      Uint8Array.from({ length: 256 }, (_, i) => i),
    );
    expect([...values].map((x) => (Number.isNaN(x) ? null : x))).toEqual(goldens['F8_E4M3 values']);
  });

  it('takes bytes that do not lie aligned', () => {
    const bytes = Uint8Array.of(9, 0x80, 0x3f, 0, 0xc0);
    expect([...toFloat32('BF16', bytes.subarray(1))]).toEqual([1, -2]);
    expect([...toFloat32('F32', Uint8Array.of(9, 0, 0, 0x80, 0x3f).subarray(1))]).toEqual([1]);
  });
});

describe('dequantizeFp8Blocks', () => {
  it('scales each block, also those cut by the edge', () => {
    const [rows, cols, block] = [5, 7, 3];
    const codes = Uint8Array.from({ length: rows * cols }, (_, i) => (i * 11) % 0x7f);
    const scales = Float32Array.from({ length: 2 * 3 }, (_, i) => 2 ** i);
    const values = toFloat32('F8_E4M3', codes);
    const expected = values.map((value, i) => {
      const scale = scales[Math.floor(Math.floor(i / cols) / block) * 3 + Math.floor((i % cols) / block)];
      return value * (scale as number);
    });
    expect(dequantizeFp8Blocks(codes, scales, rows, cols, block)).toEqual(expected);
  });

  it('refuses scales that do not fit', () => {
    expect(() => dequantizeFp8Blocks(new Uint8Array(256), new Float32Array(1), 2, 128)).not.toThrow();
    expect(() => dequantizeFp8Blocks(new Uint8Array(258), new Float32Array(1), 2, 129)).toThrow(/2 scales/);
  });
});
