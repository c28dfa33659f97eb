import { HadalError } from '../core/errors.js';
import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import type { Graph } from '../graph/graph.js';
import { modelFromConfig } from '../models/families.js';
import type { Model } from '../models/model.js';
import { traceNumerics } from '../passes/trace-numerics.js';
import { compile, finished } from '../runtime/compile.js';
import { type Plan, plan } from '../runtime/plan.js';
import type { Target } from '../runtime/target.js';
import type { NumericsProgram } from './debug-numerics.js';
import { traceInitialization } from './initialization.js';
import { offloadedSlots } from './offload.js';
import { type StepConfig, type StepPart, traceEvaluation, traceStep, traceWorkingCopies } from './step.js';

/** Programs of updates that send gradients as they are, where later ones compress them. */
export type UncompressedPart = 'whole-uncompressed' | 'last-uncompressed';

/** A program to trace and plan: plain data, so that it can be done off the main thread. */
export interface CompileTask {
  /** The model's config.json. */
  model: Record<string, unknown>;
  program: StepPart | UncompressedPart | 'evaluation' | 'initialization' | 'working-copies';
  step: StepConfig;
  target: Target;
  /**
   * Bytes the program's arena may take where `activationCheckpointing` is `auto`: the plan is the one that fits and computes
   * least again; the smallest there is where none fits, which the caller sees by its `arenaBytes`. Default: no limit.
   */
  withinBytes?: number;
  /** In its place: how much is computed again, as another process has found it. */
  candidate?: number;
}

/** Traces and plans a program of a training run. */
export function compileProgram(task: CompileTask): Promise<WorkerResult<Plan>> {
  const { model: config, program, step, target, candidate, withinBytes = Number.POSITIVE_INFINITY } = task;
  return toWorkerResult(() =>
    refusable(() => {
      const model = modelFromConfig(config);
      const isOffloaded = offloadedSlots(model, step.offload);
      if (program === 'initialization') return compile(traceInitialization(model, step), target, { isOffloaded });
      if (program === 'evaluation') return compile(traceEvaluation(model, step), target, { isOffloaded });
      if (program === 'working-copies') return compile(traceWorkingCopies(model, step), target, { isOffloaded });
      const { activationCheckpointing: policy } = step;
      const found = candidate === undefined ? { withinBytes } : { candidate };
      const recompute = policy === 'auto' ? found : policy;
      const bucketBytes = step.dist?.overlap === false ? Number.POSITIVE_INFINITY : step.dist?.bucketBytes;
      return compile(traceUpdate(model, step, program), target, { recompute, isOffloaded, bucketBytes });
    }),
  );
}

function traceUpdate(model: Model, step: StepConfig, program: StepPart | UncompressedPart): Graph {
  if (program !== 'whole-uncompressed' && program !== 'last-uncompressed') return traceStep(model, step, program);
  const dist = step.dist && { ...step.dist, compression: { ...step.dist.compression, kind: 'none' as const } };
  return traceStep(model, { ...step, dist }, program === 'whole-uncompressed' ? 'whole' : 'last');
}

/** Traces and plans an update of one micro-batch that looks at all its numbers and updates nothing. */
export function compileNumerics(task: Omit<CompileTask, 'program'>): Promise<WorkerResult<NumericsProgram>> {
  const { model: config, step, target } = task;
  return toWorkerResult(() => {
    const { activationCheckpointing: policy } = step;
    const model = modelFromConfig(config);
    // Each process looks at its own rows alone.
    const whole = traceStep(model, { ...step, watchesActivations: false, dist: null }, 'whole');
    // The computation is the same whatever is computed again; this is what takes little memory.
    const { graph, traced } = traceNumerics(finished(whole, policy === 'auto' ? 'sqrt' : policy));
    return { plan: plan(graph, target, offloadedSlots(model, step.offload)), traced };
  });
}

/** What kernels refuse in planning are sizes beyond what they can count. */
function refusable<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof HadalError || !(error instanceof Error && /^\[(?!native\])/.test(error.message))) throw error;
    throw new HadalError('HADAL_ERR_CONFIG', `${error.message}; take a smaller model, batch or seqLen`, {
      cause: error,
    });
  }
}
