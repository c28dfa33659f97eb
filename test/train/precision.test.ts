import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const accept = fileURLToPath(new URL('../../scripts/accept.mjs', import.meta.url));

/** `npm run accept -- precision` of the tiny preset, for so many steps, with so much difference allowed. */
function precision(steps: number, most: number) {
  const args = [accept, 'precision', 'test', `${steps}`, `${most}`];
  return spawnSync(process.execPath, args, { encoding: 'utf8' });
}

it('training in bf16, fp16 and fp8 follows training in fp32', () => {
  const { stdout, stderr, status } = precision(30, 0.02);
  expect(stderr).toBe('');
  expect(stdout.match(/^ok /gm)).toHaveLength(5);
  expect(stdout).toContain('ok     the runs were in fp32, bf16, fp16, fp8, fp8');
  expect(stdout).toContain('fp16 scaled its loss by 32768 to 32768 and skipped 0 updates');
  const fromBf16 = [...stdout.matchAll(/^ +fp8.*: (-?[\d.]+) % from bf16/gm)].map(([, percent]) =>
    Math.abs(Number(percent)),
  );
  expect(fromBf16).toHaveLength(2);
  for (const percent of fromBf16) expect(percent).toBeLessThan(2);
  expect(status, stdout).toBe(0);
});

it('a difference beyond what is allowed fails', () => {
  const { stdout, status } = precision(2, 0);
  expect(stdout).toMatch(/^FAILED fp32, bf16 and fp16 differ by/m);
  expect(status).toBe(1);
});
