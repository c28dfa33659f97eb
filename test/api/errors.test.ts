import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { type ErrorCode, errorCodes } from '../../src/core/errors.js';

const pages = fileURLToPath(new URL('../../docs/errors/', import.meta.url));

test('every error code has a page, and every page a code', () => {
  const documented = readdirSync(pages).map((name) => name.replace(/\.md$/, ''));
  expect(documented.sort()).toEqual(Object.keys(errorCodes).sort());
});

test.each(Object.entries(errorCodes) as [ErrorCode, number][])('%s: the page says what it is', (code, status) => {
  const page = readFileSync(`${pages}${code}.md`, 'utf8');
  expect(page).toMatch(new RegExp(`^# ${code}\\n\\n.+ Exit status ${status}\\.\\n\\n## When\\n`));
  expect(page).toContain('\n## What to do\n');
});
