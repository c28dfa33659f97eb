import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname;
const hadal = async (...args: string[]) =>
  (await promisify(execFile)(process.execPath, [main, ...args], { maxBuffer: 1 << 26 })).stdout;

describe('hadal inspect --device', () => {
  it('predicts a step of GPT-2 124M by kernel, and says that nothing is measured', async () => {
    const out = await hadal('inspect', 'gpt2-124m', '--device', 'h100', '--batch', '64');
    expect(out).toContain('H100 SXM 80 GB, bf16: predicted, never measured');
    expect(out).toContain('an update of one micro-batch of 64 × 1,024 tokens');
    expect(out).toMatch(/^matmul +\d+ +[\d.]+ +\d+ % .* compute +\d+ %$/m);
    expect(out).toMatch(/^tokens a second +\d{3},\d{3}$/m);
    expect(out).toMatch(/^MFU, of 989 TFLOP\/s +\d+ %$/m);
    expect(out).toContain('it fits');
  });

  it('gives DeepSeek-V2-Lite as JSON within ten seconds; its numbers agree with each other', async () => {
    const begin = performance.now();
    const args = ['inspect', 'deepseek-v2-lite', '--device', 'a100', '--batch', '8', '--micro-batches', '16'];
    const found = JSON.parse(await hadal(...args, '--json'));
    expect(performance.now() - begin).toBeLessThan(30_000); // ten, where nothing else runs
    expect(found.note).toBe('predicted, never measured');
    expect(found.device).toMatchObject({ name: 'a100', halfFlops: 312e12 });
    expect(found.memory.fits).toBe(false);
    const tokens = 16 * 8 * 4096;
    expect(found.tokensPerSecond).toBeCloseTo(tokens / found.seconds, 3);
    const sum = (pick: (one: { times: number; seconds: number; flops: number }) => number) =>
      found.instructions.reduce((total: number, one: never) => total + pick(one), 0);
    expect(sum(({ times, seconds }) => times * seconds)).toBeCloseTo(found.seconds, 6);
    expect(sum(({ times, flops }) => times * flops) / found.seconds / found.hardwareFlops).toBeCloseTo(1, 9);
    // Sixteen micro-batches, an update: 15.7 B parameters are read and written once.
    const adamw = found.kernels.find(({ kernel }: { kernel: string }) => kernel === 'adamw');
    expect(adamw.bytes / 15.7e9).toBeCloseTo(30, 0);
    // 6 operations each of 2.4513 B parameters a token is multiplied with, and 27 layers of 16 heads of 192 + 128.
    const perToken = 6 * 2.4513e9 + 6 * 27 * 16 * (192 + 128) * 4096;
    expect((found.mfu * 312e12 * found.seconds) / tokens / perToken).toBeCloseTo(1, 4);
  });

  it('says that it does not fit, and what GPUs there are', async () => {
    const out = await hadal('inspect', 'deepseek-v2-lite', '--device', 'rtx-4090');
    expect(out).toContain('IT DOES NOT FIT');
    await expect(hadal('inspect', 'test', '--device', 'h10')).rejects.toThrow(/did you mean h100/);
  });
});
