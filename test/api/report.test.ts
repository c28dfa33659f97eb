import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const fileOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));

test('the public API is the recorded one (node scripts/api-report.mjs --write records a wanted change)', () => {
  const script = fileOf('../../scripts/api-report.mjs');
  const report = execFileSync(process.execPath, [script], { encoding: 'utf8' });
  expect(report).toBe(readFileSync(fileOf('api-report.md'), 'utf8'));
});
