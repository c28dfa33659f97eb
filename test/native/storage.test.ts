import { expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';

const { Storage, storageBytes } = loadAddon();

it('counts the memory of all blocks in whole pages, and the most there ever was', () => {
  const before = storageBytes();
  const blocks = [new Storage(1), new Storage(0), new Storage(4097)];
  expect(storageBytes().live - before.live).toBe(4096 + 4096 + 8192);
  const large = new Storage(before.peak + 1);
  const { peak } = storageBytes();
  expect(peak).toBe(storageBytes().live);
  large.dispose();
  for (const block of blocks) block.dispose();
  for (const block of blocks) block.dispose();
  expect(storageBytes()).toEqual({ live: before.live, peak });
});
