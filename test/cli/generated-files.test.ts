import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { generatedFiles } from '../../src/cli/generated-files.js';

describe('files made from the code', () => {
  it.each(Object.entries(generatedFiles()))('%s is current', (path, text) => {
    const tracked = readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
    expect(tracked === text, `${path} is out of date; run: npm run docs:generate`).toBe(true);
  });
});
