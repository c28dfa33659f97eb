// `hadal bench step`: the same work as bench/peers/pytorch_step.py.
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { HadalError } from '../core/errors.js';
import { formatCount, formatFlops, formatInteger } from '../core/format.js';
import { parseJson } from '../core/json.js';
import { batchFromRows } from '../data/batch.js';
import { randomUint32 } from '../data/shuffle.js';
import { withFileErrors } from '../formats/file-error.js';
import { modelFromConfig } from '../models/families.js';
import { countModel } from '../models/inspect.js';
import { openDevice } from '../runtime/device.js';
import { planPrograms, Stepper } from '../train/stepper.js';
import type { BenchStepFlags } from './bench.js';
import { abortOnInterrupt } from './interrupt.js';
import { printJson, printLine } from './output.js';
import { progressLine } from './progress-line.js';

const adamw = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
const weights = { lr: 3e-4, mtpWeight: 0.3, balanceWeight: 1e-4, routerBiasSpeed: 1e-3 };

/** What is measured. The times are medians over the timed steps; losses are the first and last step's of all. */
interface StepMeasurement {
  tokens_per_s: number;
  step_ms: number;
  peak_rss_mb: number;
  loss_first: number;
  loss_last: number;
  params: number;
  flops_per_token: number;
}

/** Trains on random tokens and prints what it took. */
export async function benchStep(flags: BenchStepFlags): Promise<void> {
  const measured = await measure(flags);
  if (flags.json) return printJson(measured);
  const { tokens_per_s, step_ms, peak_rss_mb, loss_first, loss_last, params, flops_per_token } = measured;
  printLine(`${formatCount(params)} parameters, batch ${flags.batch} × ${flags.seq}, ${flags.dtype}`);
  printLine(
    `${formatInteger(tokens_per_s)} tokens/s, ${step_ms.toFixed(1)} ms a step, ${formatFlops(tokens_per_s * flops_per_token)}FLOP/s`,
  );
  printLine(`peak memory ${formatInteger(peak_rss_mb)} MiB; loss ${loss_first.toFixed(4)} to ${loss_last.toFixed(4)}`);
}

async function measure({
  config,
  batch,
  seq,
  threads = availableParallelism(),
  steps,
  warmup,
  seed,
  dtype,
}: BenchStepFlags): Promise<StepMeasurement> {
  const text = await withFileErrors(`read ${config}`, () => readFile(config, 'utf8'));
  const model = modelFromConfig(parseJson(text, { part: 'config', what: config, code: 'HADAL_ERR_CONFIG' }), config);
  if (seq > model.maxPositions) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[bench] expected --seq of at most ${model.maxPositions} for this model, got ${seq}`,
    );
  }
  const step = { batch, seqLen: seq, labelSmoothing: 0, zLoss: 0, dtype, clipNorm: 1, adamw };
  using signal = abortOnInterrupt(() => {});
  using progress = progressLine(process.stderr);
  using device = openDevice('cpu', { threads });
  using stepper = new Stepper(device, model, step, await planPrograms(model, step, { threads, accumulates: false }));
  await stepper.initialize(seed);
  const next = randomUint32(seed + 1);
  const losses: number[] = [];
  const times: number[] = [];
  for (let i = 0; i < warmup + steps; i++) {
    if (signal.aborted) throw new HadalError('HADAL_ERR_ABORTED', '[bench] interrupted');
    const rows = Array.from({ length: batch }, () => Array.from({ length: seq }, () => next() % model.vocabSize));
    const begin = performance.now();
    const { loss } = await stepper.update([batchFromRows(rows, { mtpDepth: model.mtpDepth })], {
      ...weights,
      seed,
      step: i,
    });
    times.push(performance.now() - begin);
    losses.push(loss);
    progress.show(`step ${i + 1} of ${warmup + steps}`);
  }
  progress.clear();
  const stepMs = median(times.slice(warmup));
  const counts = countModel(model, seq);
  const { parameters, flopsPerToken } = counts.withMtp ?? counts.model;
  return {
    tokens_per_s: rounded((1000 * batch * seq) / stepMs, 1),
    step_ms: rounded(stepMs, 2),
    peak_rss_mb: rounded(process.resourceUsage().maxRSS / 1024, 1),
    loss_first: losses[0] as number,
    loss_last: losses.at(-1) as number,
    params: parameters,
    flops_per_token: flopsPerToken,
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.floor(middle)] as number) + (sorted[Math.ceil(middle) - 1] as number)) / 2;
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
