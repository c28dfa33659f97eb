import { describe, expect, it, vi } from 'vitest';
import { bytesOf, dtypes, isFloat, parseDType } from '../../src/core/dtype.js';
import { debug, envFlag } from '../../src/core/env.js';
import { errorCodes, HadalError, invariant } from '../../src/core/errors.js';
import { nearest } from '../../src/core/nearest.js';
import { formatShape, sameShape, sizeOf, stridesOf } from '../../src/core/shape.js';
import { workerUrl } from '../../src/core/worker-url.js';
import { expectHadalError } from '../support/op-case.js';

describe('dtypes', () => {
  it('know their bytes', () => {
    const bytes = Object.keys(dtypes).map((name) => bytesOf(parseDType(name), 3));
    expect(bytes).toEqual([12, 6, 6, 12, 3]);
    expect(isFloat('bf16') && !isFloat('int32')).toBe(true);
  });

  it('are parsed by name only', () => {
    for (const name of ['fp33', 'constructor', '']) {
      expectHadalError(() => parseDType(name), 'HADAL_ERR_DTYPE', /expected one of fp32, bf16, .*got '/);
    }
  });
});

it('shapes have sizes, strides and a printed form', () => {
  expect([sizeOf([]), sizeOf([2, 3, 4]), sizeOf([2, 0])]).toEqual([1, 24, 0]);
  expect(stridesOf([2, 3, 4])).toEqual([12, 4, 1]);
  expect([sameShape([2, 3], [2, 3]), sameShape([2, 3], [3, 2]), sameShape([2], [2, 1])]).toEqual([true, false, false]);
  expect(formatShape([2, 3])).toBe('[2, 3]');
});

it('errors carry a code and the exit status that goes with it', () => {
  expect(new HadalError('HADAL_ERR_DATA', 'x')).toMatchObject({
    name: 'HadalError',
    code: 'HADAL_ERR_DATA',
    exitStatus: 3,
  });
  expect(new HadalError('HADAL_ERR_RUN', 'x', { cause: 7 }).cause).toBe(7);
  expect(new Set(Object.values(errorCodes))).toEqual(new Set([1, 2, 3, 130]));
  expect(() => invariant(1, 'x')).not.toThrow();
  expectHadalError(
    () => invariant(0, 'two and two'),
    'HADAL_ERR_INTERNAL',
    /internal error: two and two; please report/,
  );
});

it('slips of the pen are recognised, other words are not', () => {
  const words = ['matmul', 'softmax', 'rms-norm'];
  expect([nearest('matmull', words), nearest('sotfmax', words), nearest('banana', words), nearest('x', [])]).toEqual([
    'matmul',
    'softmax',
    null,
    null,
  ]);
});

it('workers are found in dist/, also by callers in src/', () => {
  const found = (from: string) => workerUrl(from, './x-worker.js').pathname;
  expect(found('file:///p/src/data/pool.ts')).toBe('/p/dist/data/x-worker.js');
  expect(found('file:///src/p/src/data/pool.ts')).toBe('/src/p/dist/data/x-worker.js');
  expect(found('file:///p/dist/data/pool.js')).toBe('/p/dist/data/x-worker.js');
});

it('flags are numbers, and text for debugging is only made when wanted', () => {
  const text = vi.fn(() => 'x');
  for (const [value, level] of [
    ['', 0],
    ['2', 2],
    ['yes', 0],
  ] as const) {
    vi.stubEnv('HADAL_DEBUG', value);
    expect(envFlag('HADAL_DEBUG')).toBe(level);
  }
  debug(1, text);
  vi.unstubAllEnvs();
  expect(text).not.toHaveBeenCalled();
});
