// Where the first number that is not finite came from: the update's rows are run once more through a program that looks at
// everything it computes (src/passes/trace-numerics.ts). The update itself changed nothing, so the numbers are the same.
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { formatShape, type Shape } from '../core/shape.js';
import { workerUrl } from '../core/worker-url.js';
import type { Batch } from '../data/batch.js';
import { WorkerPool } from '../data/worker-pool.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { numericsOutput, type TracedNode, type TracedNumerics } from '../passes/trace-numerics.js';
import type { Plan } from '../runtime/plan.js';
import type { CompileTask } from './compile-worker.js';
import { type Statistics, statisticsOf } from './statistics.js';
import type { Stepper, UpdateInputs, UpdateResult } from './stepper.js';

/** A value of the step. */
export interface TracedValue extends Statistics {
  shape: Shape;
  dtype: string;
}

/** A node of the step: what runs, or what it reads from outside. */
export type TracedStep = Omit<TracedNode, 'inputs' | 'outputs'>;

/** What `--debug-numerics` finds, as the report in the run directory has it. JSON writes ∞ as null. */
export interface NumericsReport {
  /** The update that failed, and the last before it whose numbers were all finite; null: none of this run. */
  step: number;
  lastFiniteStep: number | null;
  /** Which micro-batch of the update, from 0. */
  microBatch: number;
  loss: number;
  gradNorm: number;
  lossScale: number | null;
  /** The first in order that has a number that is not finite, while all that it reads is finite. */
  first: TracedStep & {
    inputs: (TracedStep & TracedValue)[];
    outputs: TracedValue[];
    /** Of what comes from outside: what reads it first. */
    readBy: TracedStep | null;
  };
  /** All that is not finite from there on, in order. */
  spread: (TracedStep & { notFinite: number; count: number })[];
}

/** A program that looks at everything, and what its table's rows are. */
export interface NumericsProgram {
  plan: Plan;
  traced: TracedNumerics;
}

/**
 * Whether an update is to be explained. With a loss scale above 1, gradients that overflow are ordinary: the scale falls, and
 * only what still overflows without it is a fault; a loss that is not finite always is.
 */
export function isNumericsFault({ loss, overflowed, lossScale }: UpdateResult): boolean {
  return !Number.isFinite(loss) || (overflowed && (lossScale === null || lossScale <= 1));
}

/**
 * Finds where the numbers of an update went wrong. To be called before another update is made.
 *
 * @returns null where each micro-batch alone is finite: then their sum is not, or a loss scale that has fallen since was too high
 */
export async function explainNumerics(
  stepper: Stepper,
  window: readonly Batch[],
  inputs: UpdateInputs,
  about: Pick<NumericsReport, 'step' | 'lastFiniteStep' | 'loss' | 'gradNorm' | 'lossScale'>,
): Promise<NumericsReport | null> {
  const { plan, traced } = await planNumerics(stepper);
  const program = stepper.device.load(plan);
  using table = stepper.device.allocate([traced.values.length, 5], 'fp32');
  const slots = { ...Object.fromEntries(stepper.tensors), [numericsOutput]: table };
  // Nothing is updated that could be skipped, and ∞, which is no limit, is not to be found.
  for (const [microBatch, given] of stepper.inputsOf(window, { ...inputs, skipAbove: 0 }, null).entries()) {
    await stepper.device.run([{ program, name: 'numerics', slots, inputs: given }]);
    const found = firstFault(traced, await table.toFloat32());
    if (found) return { ...about, microBatch, ...found };
  }
  return null;
}

/** Off the main thread, as all programs are. */
async function planNumerics({ model, config, device }: Stepper): Promise<NumericsProgram> {
  await using pool = new WorkerPool(workerUrl(import.meta.url, './compile-worker.js'), 1);
  const task: Omit<CompileTask, 'program'> = { model: model.toHuggingFace(), step: config, target: device.target };
  return await pool.run<NumericsProgram>('compileNumerics', task);
}

/** Reads the table. */
export function firstFault(
  { nodes, values }: TracedNumerics,
  table: Float32Array,
): Pick<NumericsReport, 'first' | 'spread'> | null {
  const found = values.map((value, row) => ({ ...value, ...statisticsOf(table, row) }));
  const valueAt = (row: number) => found[row] as TracedValue;
  const isBad = (row: number) => valueAt(row).notFinite > 0;
  const at = nodes.findIndex(({ inputs, outputs }) => outputs.some(isBad) && !inputs.some(isBad));
  const node = nodes[at];
  if (!node) return null;
  const makers = new Map(nodes.flatMap((maker) => maker.outputs.map((row) => [row, maker] as const)));
  const reader =
    node.name === null ? undefined : nodes.find(({ inputs }) => inputs.some((row) => node.outputs.includes(row)));
  return {
    first: {
      ...stepOf(node),
      inputs: node.inputs.map((row) => ({ ...stepOf(makers.get(row) as TracedNode), ...valueAt(row) })),
      outputs: node.outputs.map(valueAt),
      readBy: reader ? stepOf(reader) : null,
    },
    spread: nodes.slice(at + 1).flatMap((later) =>
      later.outputs.filter(isBad).map((row) => {
        const { notFinite, count } = valueAt(row);
        return { ...stepOf(later), notFinite, count };
      }),
    ),
  };
}

const stepOf = ({ inputs, outputs, ...step }: TracedNode): TracedStep => step;

/** Writes the report into the run's directory; returns its path. @throws HadalError HADAL_ERR_IO */
export async function writeNumericsReport(directory: string, report: NumericsReport): Promise<string> {
  const path = join(directory, `numerics-${String(report.step).padStart(8, '0')}.json`);
  await writeFileAtomic(path, `${JSON.stringify(report, null, 2)}\n`);
  return path;
}

/** The error that a run ends with. @param path - of the report */
export function numericsError({ step, lastFiniteStep, first }: NumericsReport, path: string): HadalError {
  const last =
    lastFiniteStep === null ? 'no step of this run was finite' : `step ${lastFiniteStep} was the last finite one`;
  return new HadalError(
    'HADAL_ERR_NUMERICS',
    `[numerics] step ${step}: ${culprit(first)}; ${last}; ${path} tells more`,
  );
}

function culprit({ name, inputs, outputs, readBy, ...step }: NumericsReport['first']): string {
  const bad = outputs.find(({ notFinite }) => notFinite > 0) as TracedValue;
  const amount = `${bad.notFinite} of ${bad.count} numbers (${bad.dtype} ${formatShape(bad.shape)}) that are not finite`;
  if (name !== null) return `'${name}' holds ${amount}${readBy ? `; first read by ${place(readBy)}` : ''}`;
  const ranges = inputs.map(({ smallest, greatest }) => `${smallest.toPrecision(3)} … ${greatest.toPrecision(3)}`);
  return `${place(step)} made ${amount} from finite inputs (${ranges.join('; ') || 'none'})`;
}

const place = ({ op, scope, direction }: Pick<TracedStep, 'op' | 'scope' | 'direction'>) =>
  `'${op}'${scope ? ` in ${scope}` : ''} (${direction})`;
