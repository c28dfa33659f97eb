// `hadal bench step`: the same work as bench/peers/pytorch_step.py.
import { readFile } from 'node:fs/promises';
import { HadalError } from '../core/errors.js';
import { formatCount, formatFlops, formatInteger } from '../core/format.js';
import { parseJson } from '../core/json.js';
import { median } from '../core/median.js';
import { usableProcessors } from '../core/processors.js';
import { batchFromRows } from '../data/batch.js';
import { randomUint32 } from '../data/shuffle.js';
import { withFileErrors } from '../formats/file-error.js';
import { modelFromConfig } from '../models/families.js';
import { countModel } from '../models/inspect.js';
import type { Model } from '../models/model.js';
import type { PrecisionDType } from '../passes/narrow.js';
import { bestDType } from '../runtime/best-dtype.js';
import { type InstructionTime, openDevice } from '../runtime/device.js';
import { profileRows } from '../runtime/profile.js';
import { loadParameters, type ModelSource, openModelSource } from '../session/model-source.js';
import { planPrograms } from '../train/planning.js';
import { defaultStepConfig } from '../train/step-config.js';
import { Stepper } from '../train/stepper.js';
import type { BenchStepFlags } from './bench.js';
import { abortOnInterrupt } from './interrupt.js';
import { printJson, printLine } from './output.js';
import { progressLine } from './progress-line.js';
import { requireProfilePath, writeProfile } from './write-profile.js';

// The terms that PyTorch's side does not have weigh nothing; they are computed all the same.
const weights = { lr: 3e-4, mtpWeight: 0.3, balanceWeight: 0, routerBiasSpeed: 0 };

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

/** Trains on random tokens, or given ones, and prints what it took. */
export async function benchStep(flags: BenchStepFlags): Promise<void> {
  await requireProfilePath(flags.profile);
  const { measured, times, threads, dtype } = await measure(flags);
  const lines = flags.profile === undefined ? [] : await writeProfile(flags.profile, times, threads);
  if (flags.json) {
    const profile = { ops: profileRows(times, 'op'), modules: profileRows(times, 'module') };
    return printJson({ ...measured, ...(flags.profile !== undefined && { profile }) });
  }
  const { tokens_per_s, step_ms, peak_rss_mb, loss_first, loss_last, params, flops_per_token } = measured;
  printLine(`${formatCount(params)} parameters, batch ${flags.batch} × ${flags.seq}, ${dtype}`);
  printLine(
    `${formatInteger(tokens_per_s)} tokens/s, ${step_ms.toFixed(1)} ms a step, ${formatFlops(tokens_per_s * flops_per_token)}FLOP/s`,
  );
  printLine(`peak memory ${formatInteger(peak_rss_mb)} MiB; loss ${loss_first.toFixed(4)} to ${loss_last.toFixed(4)}`);
  if (lines.length > 0) printLine(['', ...lines].join('\n'));
}

async function measure(
  flags: BenchStepFlags,
): Promise<{ measured: StepMeasurement; times: readonly InstructionTime[]; threads: number; dtype: PrecisionDType }> {
  const { batch, seq, pinThreads = false, steps, warmup, seed } = flags;
  const { model, source } = await modelOf(flags);
  if (seq > model.maxPositions) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[bench] expected --seq of at most ${model.maxPositions} for this model, got ${seq}`,
    );
  }
  using device = openDevice(flags.device, { threads: flags.threads ?? usableProcessors(), pinThreads });
  const dtype = flags.dtype === 'auto' ? bestDType(device) : flags.dtype;
  const step = defaultStepConfig({ batch, seqLen: seq }, dtype);
  const count = warmup + steps + (flags.profile === undefined ? 0 : 1);
  const rowsOf = await rowSource(flags, model.vocabSize, count);
  using signal = abortOnInterrupt(() => {});
  using progress = progressLine(process.stderr);
  using stepper = new Stepper(
    device,
    model,
    step,
    await planPrograms(model, step, { target: device.target, accumulates: false }),
  );
  if (source) {
    await loadParameters(source, stepper.tensors);
    await stepper.refreshWorkingCopies();
  } else await stepper.initialize(seed);
  const results: { loss: number; ms: number; times: readonly InstructionTime[] }[] = [];
  for (let i = 0; i < count; i++) {
    if (signal.aborted) throw new HadalError('HADAL_ERR_ABORTED', '[bench] interrupted');
    const rows = rowsOf();
    const begin = performance.now();
    const window = [batchFromRows(rows, { mtpDepth: model.mtpDepth })];
    const { loss, times } = await stepper.update(
      window,
      { ...weights, seed, step: i },
      { profile: i === warmup + steps },
    );
    results.push({ loss, times, ms: performance.now() - begin });
    progress.show(`step ${i + 1} of ${count}`);
  }
  progress.clear();
  const stepMs = median(results.slice(warmup, warmup + steps).map(({ ms }) => ms));
  const counts = countModel(model, seq);
  const { parameters, flopsPerToken } = counts.withMtp ?? counts.model;
  const measured = {
    tokens_per_s: rounded((1000 * batch * seq) / stepMs, 1),
    step_ms: rounded(stepMs, 2),
    peak_rss_mb: rounded(process.resourceUsage().maxRSS / 1024, 1),
    loss_first: results[0]?.loss as number,
    loss_last: results[warmup + steps - 1]?.loss as number,
    params: parameters,
    flops_per_token: flopsPerToken,
  };
  return { measured, times: results.at(-1)?.times ?? [], threads: device.threads, dtype };
}

/** The model, and where its weights come from: null where they are random. */
async function modelOf({ config, model }: BenchStepFlags): Promise<{ model: Model; source: ModelSource | null }> {
  if ((config === undefined) === (model === undefined)) {
    throw new HadalError('HADAL_ERR_USAGE', '[bench] expected one of --config and --model, got none or both');
  }
  if (model !== undefined) {
    const source = await openModelSource(model);
    return { model: source.model, source };
  }
  const path = config as string;
  const text = await withFileErrors(`read ${path}`, () => readFile(path, 'utf8'));
  const json = parseJson(text, { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' });
  return { model: modelFromConfig(json, path), source: null };
}

/** Gives the rows of one step after the other. */
async function rowSource(
  { tokens: path, batch, seq, seed }: BenchStepFlags,
  vocabSize: number,
  steps: number,
): Promise<() => number[][]> {
  let next = randomUint32(seed + 1);
  if (path !== undefined) {
    const bytes = await withFileErrors(`read ${path}`, () => readFile(path));
    const [needed, found] = [steps * batch * seq, Math.floor(bytes.byteLength / 4)];
    if (found < needed) {
      throw new HadalError('HADAL_ERR_DATA', `[bench] expected ${needed} token ids in ${path}, got ${found}`);
    }
    let at = 0;
    next = () => bytes.readInt32LE(4 * at++);
  }
  const token = (): number => {
    const id = next();
    if (path === undefined) return id % vocabSize;
    if (id >= 0 && id < vocabSize) return id;
    throw new HadalError(
      'HADAL_ERR_DATA',
      `[bench] expected token ids from 0 to ${vocabSize - 1} in ${path}, got ${id}`,
    );
  };
  return () => Array.from({ length: batch }, () => Array.from({ length: seq }, token));
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
