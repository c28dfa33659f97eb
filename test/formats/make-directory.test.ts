import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makeDirectory } from '../../src/formats/make-directory.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'hadal-directory-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

it('several at once make directories below one that none has made yet', async () => {
  for (let round = 0; round < 200; round++) {
    const paths = Array.from({ length: 4 }, (_, i) => join(folder, `${round}`, 'runs', `${i}`));
    await Promise.all(paths.map((path) => makeDirectory(path)));
    expect(paths.every((path) => existsSync(path))).toBe(true);
  }
});
