import { expect, it } from 'vitest';
import { crc32c } from '../../src/core/crc32c.js';
import { formatBytes, formatCount, formatDuration, formatFlops, formatInteger } from '../../src/core/format.js';

it('numbers read well', () => {
  expect([0, 950, 1234, 7_243_128, 671_026_419_200, 1.5].map(formatCount)).toEqual([
    '0',
    '950',
    '1.23 k',
    '7.24 M',
    '671.0 B',
    '1.5',
  ]);
  expect([0, 512, 1536, 2.5 * 2 ** 30, 2 ** 41].map(formatBytes)).toEqual([
    '0 B',
    '512 B',
    '1.50 KiB',
    '2.50 GiB',
    '2.00 TiB',
  ]);
  expect([34_060_000, 281.2e9].map(formatFlops)).toEqual(['34.06 M', '281.2 G']);
  expect(formatInteger(671_026_419_200)).toBe('671,026,419,200');
  expect([0, 6_600, 151_000, 3_723_000, -5].map(formatDuration)).toEqual(['0:00', '0:07', '2:31', '1:02:03', '0:00']);
});

it('CRC-32C gives the test patterns of RFC 3720, appendix B.4', () => {
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
});
