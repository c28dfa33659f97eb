import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { generatedDocs } from '../../src/cli/generated-docs.js';

describe('pages made from the code', () => {
  it.each(Object.entries(generatedDocs()))('docs/%s is current', (name, text) => {
    const tracked = readFileSync(new URL(`../../docs/${name}`, import.meta.url), 'utf8');
    expect(tracked === text, `docs/${name} is out of date; run: npm run docs:generate`).toBe(true);
  });
});
