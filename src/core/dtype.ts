import { HadalError } from './errors.js';

/** What a number format is. Quantised formats pack `blockElements` numbers into one block of `blockBits`. */
interface DTypeInfo {
  /** Number shared with `native/core/dtype.h`. */
  readonly code: number;
  readonly blockBits: number;
  readonly blockElements: number;
  readonly isFloat: boolean;
}

/** Every number format, by name. */
export const dtypes = {
  fp32: { code: 0, blockBits: 32, blockElements: 1, isFloat: true },
  bf16: { code: 1, blockBits: 16, blockElements: 1, isFloat: true },
  fp16: { code: 2, blockBits: 16, blockElements: 1, isFloat: true },
  int32: { code: 3, blockBits: 32, blockElements: 1, isFloat: false },
  uint8: { code: 4, blockBits: 8, blockElements: 1, isFloat: false },
} as const satisfies Record<string, DTypeInfo>;

/** Name of a number format. */
export type DType = keyof typeof dtypes;

/** Bytes that `count` numbers of a format take, whole blocks. */
export function bytesOf(dtype: DType, count: number): number {
  const { blockBits, blockElements } = dtypes[dtype];
  return Math.ceil(count / blockElements) * (blockBits / 8);
}

/** True for formats that carry gradients. */
export function isFloat(dtype: DType): boolean {
  return dtypes[dtype].isFloat;
}

/** Narrows a string from outside to a {@link DType}. @throws HadalError HADAL_ERR_DTYPE */
export function parseDType(name: string): DType {
  if (Object.hasOwn(dtypes, name)) return name as DType;
  throw new HadalError('HADAL_ERR_DTYPE', `[dtype] expected one of ${Object.keys(dtypes).join(', ')}, got '${name}'`);
}
