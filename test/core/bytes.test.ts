import { expect, it } from 'vitest';
import { parseBytes } from '../../src/core/bytes.js';
import { expectHadalError } from '../support/op-case.js';

it.each([
  [1024, 1024],
  ['1', 1],
  ['512B', 512],
  ['512MiB', 512 * 2 ** 20],
  ['12GiB', 12 * 2 ** 30],
  ['1.5 gib', 1.5 * 2 ** 30],
  ['2TiB', 2 ** 41],
  ['3KiB', 3072],
  ['3kB', 3000],
  ['16GB', 16e9],
  [' .5 MB ', 5e5],
  ['1TB', 1e12],
] as const)('%s is %i bytes', (given, bytes) => expect(parseBytes(given, '[test]')).toBe(bytes));

it.each([
  '',
  'x',
  '12 gigs',
  '12G',
  '-1GiB',
  '0',
  0,
  -5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  '1iB',
  '9999999TiB',
  '1e3',
])('refuses %s', (given) =>
  expectHadalError(
    () => parseBytes(given, "[config] field 'x'"),
    'HADAL_ERR_CONFIG',
    /field 'x' expected .*'12GiB'.*got '/,
  ),
);
