// The one comparator. NaN-safe: a NaN where a number was expected is an infinite error.
import type { DType } from '../../src/core/dtype.js';
import { fromFloats, toFloats } from './float-bytes.js';

export type FloatDType = 'fp32' | 'bf16' | 'fp16';

/** The number as the dtype holds it. */
export function roundTo(dtype: FloatDType, x: number): number {
  return dtype === 'fp32' ? Math.fround(x) : (toFloats(fromFloats([x], dtype), dtype)[0] as number);
}

/** Numbers as the dtype holds them; of many at once, which is a hundred times faster than one by one. */
export function roundAll(dtype: DType, data: ArrayLike<number>): Float64Array {
  return toFloats(fromFloats(data, dtype), dtype);
}

const mantissaBits = { fp32: 23, bf16: 7, fp16: 10 } as const;

/** Distance of neighbouring numbers near x. */
export function ulp(dtype: DType, x: number): number {
  if (dtype !== 'fp32' && dtype !== 'bf16' && dtype !== 'fp16') return 0;
  const exponent = Math.floor(Math.log2(Math.max(Math.abs(x), 2 ** -14)));
  return 2 ** (exponent - mantissaBits[dtype]);
}

/** Throws, naming the worst element, unless every |actual − expected| is within `allowed`. */
export function compare(
  label: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { allowed }: { allowed: number },
): void {
  if (actual.length !== expected.length) {
    throw new Error(`${label}: expected ${expected.length} elements, got ${actual.length}`);
  }
  let worst = -1;
  let worstError = allowed;
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [actual[i] as number, expected[i] as number];
    const error = Object.is(a, b) || a === b ? 0 : Number.isNaN(a - b) ? Number.POSITIVE_INFINITY : Math.abs(a - b);
    if (error > worstError) [worst, worstError] = [i, error];
  }
  if (worst !== -1) {
    throw new Error(
      `${label}: worst element ${worst} of ${expected.length}: expected ${expected[worst]}, got ${actual[worst]} (error ${worstError.toExponential(2)}, allowed ${allowed.toExponential(2)})`,
    );
  }
}

/** ‖a − b‖ / ‖b‖. */
export function relativeNorm(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += ((a[i] as number) - (b[i] as number)) ** 2;
    norm += (b[i] as number) ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}
