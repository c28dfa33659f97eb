import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const root = new URL('../../', import.meta.url);

test('NOTICE names every library that travels with the binary', async () => {
  const gate = new URL('scripts/check-prebuild.mjs', root).href;
  const { bundledNames } = (await import(gate)) as { bundledNames: string[] };
  const notice = readFileSync(new URL('NOTICE', root), 'utf8');
  expect(bundledNames.length).toBeGreaterThan(0);
  for (const name of bundledNames) expect(notice).toMatch(new RegExp(`^${name.replaceAll('.', '\\.')} `, 'm'));
});
