// `npm run bench:peers`: what it concludes from measurements, and one run of it where there is a PyTorch (HADAL_PYTHON).
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { tokensFor } from '../../bench/peers/compare.js';
import { caseOf, nameOf, readOps } from '../../bench/peers/op-cases.js';
import {
  lossMismatches,
  type ModelResult,
  markdownOf,
  type PeersReport,
  summarize,
  summarizeOp,
  type VariantResult,
} from '../../bench/peers/results.js';
import { graphOf } from '../../bench/support/measure.js';
import { modelFromConfig } from '../../src/models/families.js';
import { countModel } from '../../src/models/inspect.js';
import { compile } from '../../src/runtime/compile.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'hadal-peers-test-'));
afterAll(() => rmSync(dir, { recursive: true }));

const run = (tokens_per_s: number, peak_rss_mb = 100) => ({ tokens_per_s, peak_rss_mb, loss_first: 9, loss_last: 8.5 });
const hadal = { name: 'hadal fp32', program: 'hadal', dtype: 'fp32' } as const;
const pytorch = { name: 'PyTorch fp32', program: 'PyTorch', dtype: 'fp32' } as const;

const variant = (rest: Partial<VariantResult>): VariantResult => ({
  ...{ ...hadal, tokensPerSecond: 100, all: [100], peakMb: 50, lossFirst: 9, lossLast: 8.5, ofPeak: null },
  ...rest,
});
const model = (variants: VariantResult[]): ModelResult => ({
  ...{ name: 'm', parameters: 1e6, batch: 4, seq: 256, flopsPerToken: 1e6, load: 0 },
  variants,
});

describe('a comparison', () => {
  it('takes medians of speed, the most of memory, and the share of the peak for hadal alone', () => {
    const runs = [run(100, 60), run(300, 50), run(200, 70)];
    expect(summarize(hadal, runs, 5e8, 400)).toEqual({
      ...hadal,
      ...{ tokensPerSecond: 200, all: [100, 300, 200], peakMb: 70, lossFirst: 9, lossLast: 8.5, ofPeak: 0.25 },
    });
    expect(summarize(pytorch, runs, 5e8, 400).ofPeak).toBeNull();
  });

  it("takes PyTorch's fastest way of an op", () => {
    const ours = [2, 4, 3].map((ms) => ({ ways: { hadal: ms }, extra_mb: 10 + ms }));
    const theirs = [7, 9, 8].map((ms) => ({ ways: { eager: ms, compiled: ms - 1 }, extra_mb: 40 }));
    expect(summarizeOp('op', ours, theirs)).toEqual({
      ...{ name: 'op', hadalMs: 3, pytorchMs: 7, way: 'compiled', ways: { eager: 8, compiled: 7 } },
      ...{ hadalExtraMb: 12, pytorchExtraMb: 40 },
    });
  });

  it('finds losses that are not the same', () => {
    const reference = variant(pytorch);
    expect(lossMismatches(model([variant({ lossFirst: 9.0005 }), reference]))).toEqual([]);
    expect(lossMismatches(model([variant({ lossFirst: 9.002 }), reference]))).toEqual([
      'm: first loss of hadal fp32 expected within 0.0001 of 9, got 9.002',
    ]);
    expect(lossMismatches(model([variant({ lossLast: 8.6 }), reference]))).toHaveLength(1);
    expect(lossMismatches(model([variant({ lossLast: Number.NaN }), reference]))).toHaveLength(1);
    const bf16 = (lossFirst: number) => lossMismatches(model([variant({ dtype: 'bf16', lossFirst }), reference]));
    expect([bf16(9.05).length, bf16(9.2).length]).toEqual([0, 1]);
    expect(lossMismatches(model([variant({})]))).toHaveLength(1);
  });

  it('is shown as tables of ratios', () => {
    const report: PeersReport = {
      machine: {
        ...{ cpu: 'C', cores: 2, threads: 2, instructionSet: 'avx512', onednn: 'oneDNN 2', node: '20' },
        ...{ lastLevelCacheBytes: 1, load: 0.25 },
      },
      python: { python: '3.11', torch: '2.13.0', transformers: '5.18' },
      peaks: { product: { fp32: 200, bf16: 400 }, copy: 30 },
      rounds: 3,
      models: [
        model([
          variant({ tokensPerSecond: 300 }),
          variant({ name: 'hadal bf16', dtype: 'bf16', tokensPerSecond: 600, ofPeak: 0.5, peakMb: 30 }),
          variant({ name: 'hadal fp32, AVX2', isHeldBack: true, tokensPerSecond: 900 }),
          variant({ ...pytorch, tokensPerSecond: 150 }),
          variant({ ...pytorch, name: 'PyTorch fp32, compiled', tokensPerSecond: 200, peakMb: 100 }),
          variant({ ...pytorch, name: 'PyTorch bf16', dtype: 'bf16', tokensPerSecond: 100, peakMb: 120 }),
        ]),
      ],
      ops: [
        {
          ...{ name: 'adamw', hadalMs: 2, pytorchMs: 5, way: 'fused', ways: { fused: 5 } },
          ...{ hadalExtraMb: 0, pytorchExtraMb: 4 },
        },
      ],
      comm: [
        { processes: 2, bytes: 4096, hadalMs: 2, pytorchMs: 1, load: 0 },
        { processes: 4, bytes: 2 ** 28, hadalMs: 1, pytorchMs: 1.5, load: 0 },
      ],
      leftOut: ['torch.compile: no compiler'],
    };
    const lines = markdownOf(report).split('\n');
    expect(lines).toContain('| m | 3.00× | 1.50× | 6.00× | 4.50× | 0.50× | 0.25× |');
    expect(lines).toContain('| hadal bf16 | 600 | 3.00× | 50 % | 30 MB | 9.0000 → 8.5000 |');
    expect(lines).toContain('| PyTorch bf16 | 100 | 0.50× | – | 120 MB | 9.0000 → 8.5000 |');
    expect(lines).toContain('| adamw | 2.00 ms | 5.00 ms (fused) | 2.50× | 0 : 4 MB |');
    expect(lines).toContain('| 4 processes, 256.0 MiB | 1.00 ms | 1.50 ms | 1.50× |');
    expect(lines).toContain('Median of the ratios: 1.00; load 0.');
    expect(lines).toContain('Left out: 1');
  });
});

describe('what is compared', () => {
  it.each([
    ['deepseek-14m', 14_320_080],
    ['deepseek-116m', 116_000_000],
    ['gpt2-124m', 124_439_808],
  ])('%s has the parameters that its name says', (name, parameters) => {
    const config = JSON.parse(readFileSync(join(root, `bench/peers/${name}.json`), 'utf8')) as Record<string, unknown>;
    const { parameters: counted } = countModel(modelFromConfig(config), 256).model;
    expect(Math.abs(counted - parameters) / parameters).toBeLessThan(0.01);
  });

  it('single ops have names of their own and can be planned', async () => {
    const entries = await readOps();
    expect(new Set(entries.map(nameOf)).size).toBe(entries.length);
    for (const entry of entries) {
      const { instructions } = compile(graphOf(caseOf(entry), entry.dtype), 2);
      expect(instructions.map(({ op }) => op)).toContain(entry.kind);
    }
  });

  it('tokens are within the vocabulary, small ids more often', () => {
    const tokens = tokensFor(1000, 4000);
    expect(tokens.every((id) => Number.isInteger(id) && id >= 0 && id < 1000)).toBe(true);
    const low = tokens.filter((id) => id < 250).length;
    expect(low / tokens.length).toBeGreaterThan(0.45);
    expect(low / tokens.length).toBeLessThan(0.55);
    expect(tokensFor(1000, 50)).toEqual(tokens.subarray(0, 50));
  });
});

it.skipIf(!process.env.HADAL_PYTHON)(
  'a tiny model trains alike in both programs',
  () => {
    const config = JSON.parse(readFileSync(join(root, 'bench/peers/deepseek-14m.json'), 'utf8')) as object;
    const tiny = {
      ...{ vocab_size: 512, hidden_size: 64, intermediate_size: 96, moe_intermediate_size: 32, num_hidden_layers: 2 },
      ...{ num_attention_heads: 2, num_key_value_heads: 2, q_lora_rank: 32, kv_lora_rank: 32 },
      ...{ n_routed_experts: 4, num_experts_per_tok: 2 },
    };
    writeFileSync(join(dir, 'tiny.json'), JSON.stringify({ ...config, ...tiny }));
    const out = join(dir, 'peers.json');
    const sizes = ['--batch', '2', '--seq', '32', '--steps', '3', '--warmup', '1', '--rounds', '1', '--no-compile'];
    const program = ['--import', './bench/support/typescript.mjs', 'bench/peers/run.ts'];
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [...program, '--config', join(dir, 'tiny.json'), ...sizes, '--out', out],
      { cwd: root, encoding: 'utf8' },
    );
    expect(stderr).not.toContain('mismatch');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^\| tiny \| [\d.]+× \| [\d.]+× \| [\d.]+× \|/m);
    const report = JSON.parse(readFileSync(out, 'utf8')) as PeersReport;
    const programs = report.models[0]?.variants.map(({ program }) => program);
    expect(programs?.filter((name) => name === 'PyTorch')).toHaveLength(2);
    expect(report.leftOut).toEqual(['torch.compile: --no-compile']);
  },
  300_000,
);
