import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const accept = fileURLToPath(new URL('../../scripts/accept.mjs', import.meta.url));

/** `npm run accept -- precision` of the tiny preset, for so many steps, with so much difference allowed. */
function precision(steps: number, most: number) {
  const args = [accept, 'precision', 'test', `${steps}`, `${most}`];
  return spawnSync(process.execPath, args, { encoding: 'utf8' });
}

it('training in bf16 follows training in fp32', () => {
  const { stdout, stderr, status } = precision(30, 0.05);
  expect(stderr).toBe('');
  expect(stdout.match(/^ok /gm)).toHaveLength(4);
  expect(stdout).toContain('ok     the runs were in fp32 and bf16 (fp32, bf16)');
  expect(status, stdout).toBe(0);
});

it('a difference beyond what is allowed fails', () => {
  const { stdout, status } = precision(2, 0);
  expect(stdout).toMatch(/^FAILED they differ by/m);
  expect(status).toBe(1);
});
