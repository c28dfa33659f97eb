// The same step on lesser instruction sets and without oneDNN: equal but for rounding.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { relativeNorm } from '../support/compare.js';

const child = fileURLToPath(new URL('./variant-child.mjs', import.meta.url));

interface Step {
  isa: string;
  onednn: string;
  loss: number;
  gradients: Record<string, number[]>;
}

async function step(env: Record<string, string>): Promise<Step> {
  const { stdout } = await promisify(execFile)(process.execPath, [child], {
    env: { ...process.env, ...env },
    maxBuffer: 2 ** 28,
  });
  return JSON.parse(stdout) as Step;
}

const order = ['portable', 'avx2', 'avx512', 'avx512bf16'];
const { isa } = loadAddon().features();

describe('a step', () => {
  const best = step({});
  const variants = [
    ...order.map((name) => [{ HADAL_ISA: name }, name] as const),
    [{ HADAL_NO_ONEDNN: '1' }, isa] as const,
    [{ HADAL_ISA: 'portable', HADAL_NO_ONEDNN: '1' }, 'portable'] as const,
  ];
  for (const [env, name] of variants) {
    const beyond = order.indexOf(name) > order.indexOf(isa);
    it.skipIf(beyond)(`with ${JSON.stringify(env)}${beyond ? ' (not on this machine)' : ''}`, async () => {
      const [expected, got] = [await best, await step(env)];
      expect(got.isa).toBe(name);
      if ('HADAL_NO_ONEDNN' in env) expect(got.onednn).not.toMatch(/\d+\.\d+/);
      expect(Math.abs(got.loss - expected.loss)).toBeLessThan(1e-5);
      for (const [key, gradient] of Object.entries(expected.gradients)) {
        expect(relativeNorm(got.gradients[key] as number[], gradient), key).toBeLessThan(1e-4);
      }
    });
  }
});
