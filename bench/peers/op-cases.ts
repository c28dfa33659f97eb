// The single ops that both programs are timed on (ops.json), as cases of ours.
import { readFile } from 'node:fs/promises';
import { attention } from '../../src/ops/attention.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { rmsNorm } from '../../src/ops/rms-norm.js';
import { swiglu } from '../../src/ops/swiglu.js';
import { applyAdamw } from '../../src/optim/adamw.js';
import { countUpdate } from '../../src/optim/update-state.js';
import { type BenchCase, type BenchDType, benchCase } from '../support/bench-case.js';

interface AttentionEntry {
  kind: 'attention';
  dtype: BenchDType;
  B: number;
  T: number;
  H: number;
  D: number;
  E: number;
}

interface RowsEntry {
  kind: 'rms-norm' | 'swiglu' | 'linear-cross-entropy' | 'adamw';
  dtype: BenchDType;
  rows: number;
  dim: number;
  /** Of the vocabulary. */
  words?: number;
}

/** An entry of ops.json. */
export type OpEntry = AttentionEntry | RowsEntry;

export async function readOps(): Promise<OpEntry[]> {
  return JSON.parse(await readFile(new URL('ops.json', import.meta.url), 'utf8')) as OpEntry[];
}

/** What the table calls it. */
export function nameOf(entry: OpEntry): string {
  if (entry.kind === 'attention') {
    const { B, T, H, D, E, dtype } = entry;
    return `attention ${B} × ${T}, ${H} heads of ${D}/${E}, ${dtype}`;
  }
  const { kind, rows, dim, words, dtype } = entry;
  return `${kind} ${rows} × ${dim}${words === undefined ? '' : `, ${words} words`}, ${dtype}`;
}

export function caseOf(entry: OpEntry): BenchCase {
  const name = nameOf(entry);
  if (entry.kind === 'attention') {
    const { B, T, H, D, E } = entry;
    return benchCase({
      name,
      inputs: { q: { shape: [B, T, H, D] }, k: { shape: [B, T, H, D] }, v: { shape: [B, T, H, E] } },
      build: ({ q, k, v }) => attention(q, k, v, { causal: true, scale: D ** -0.5 }),
      wrt: ['q', 'k', 'v'],
    });
  }
  const { kind, rows, dim, words = 0 } = entry;
  switch (kind) {
    case 'rms-norm':
      return benchCase({
        name,
        inputs: { x: { shape: [rows, dim] }, weight: { shape: [dim], dtype: 'fp32' } },
        build: ({ x, weight }) => rmsNorm(x, weight, 1e-6),
        wrt: ['x', 'weight'],
      });
    case 'swiglu':
      return benchCase({
        name,
        inputs: { gateUp: { shape: [rows, 2 * dim] } },
        build: ({ gateUp }) => swiglu(gateUp),
        wrt: ['gateUp'],
      });
    case 'linear-cross-entropy':
      return benchCase({
        name,
        inputs: {
          hidden: { shape: [rows, dim] },
          weight: { shape: [words, dim], std: 0.05 },
          labels: { shape: [rows], dtype: 'int32', values: (i) => (i * 131) % words },
          scale: { shape: [1], dtype: 'fp32', mean: 1 / rows, std: 0 },
        },
        build: ({ hidden, weight, labels, scale }) => linearCrossEntropy(hidden, weight, labels, scale).loss,
        wrt: ['hidden', 'weight'],
      });
    case 'adamw':
      return benchCase({
        name,
        inputs: {
          lr: { shape: [1], dtype: 'fp32', mean: 1e-4, std: 0 },
          gradScale: { shape: [1], dtype: 'fp32', mean: 1, std: 0 },
          'adam.v/p': { shape: [rows, dim], dtype: 'fp32', mean: 1, std: 0.1 },
        },
        build({ lr, gradScale }, graph) {
          const parameter = { name: 'p', shape: [rows, dim], dtype: 'fp32' as const, decay: true };
          const grad = graph.slot('gradient/p', parameter.shape, 'fp32');
          const updated = { parameter, grad, weightDecay: 0.1, l4Decay: 0, lrRatio: 1, copy: null };
          const betas = { beta1: 0.9, beta2: 0.95, betaSchedule: null, steps: 1 };
          const config = { ...betas, eps: 1e-8, momentDtype: 'fp32' as const };
          applyAdamw(graph, [updated], { lr, gradScale }, config, countUpdate(graph));
          return [];
        },
      });
  }
}
