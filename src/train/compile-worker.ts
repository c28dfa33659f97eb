import { HadalError } from '../core/errors.js';
import { toWorkerResult, type WorkerResult } from '../data/worker-pool.js';
import { modelFromConfig } from '../models/families.js';
import { compile } from '../runtime/compile.js';
import type { Plan } from '../runtime/plan.js';
import { traceInitialization } from './initialization.js';
import { type StepConfig, type StepPart, traceEvaluation, traceStep, traceWorkingCopies } from './step.js';

/** A program to trace and plan: plain data, so that it can be done off the main thread. */
export interface CompileTask {
  /** The model's config.json. */
  model: Record<string, unknown>;
  program: StepPart | 'evaluation' | 'initialization' | 'working-copies';
  step: StepConfig;
  threads: number;
  /**
   * Bytes the program's arena may take where `activationCheckpointing` is `auto`: the plan is the one that fits and computes
   * least again; the smallest there is where none fits, which the caller sees by its `arenaBytes`. Default: no limit.
   */
  withinBytes?: number;
}

/** Traces and plans a program of a training run. */
export function compileProgram(task: CompileTask): Promise<WorkerResult<Plan>> {
  const { model: config, program, step, threads, withinBytes = Number.POSITIVE_INFINITY } = task;
  return toWorkerResult(() =>
    refusable(() => {
      const model = modelFromConfig(config);
      if (program === 'initialization') return compile(traceInitialization(model), threads);
      if (program === 'evaluation') return compile(traceEvaluation(model, step), threads);
      if (program === 'working-copies') return compile(traceWorkingCopies(model, step), threads);
      const { activationCheckpointing: policy } = step;
      const recompute = policy === 'auto' ? { withinBytes } : policy;
      return compile(traceStep(model, step, program), threads, { recompute });
    }),
  );
}

/** What kernels refuse in planning are sizes beyond what they can count. */
function refusable<T>(plan: () => T): T {
  try {
    return plan();
  } catch (error) {
    if (error instanceof HadalError || !(error instanceof Error && /^\[(?!native\])/.test(error.message))) throw error;
    throw new HadalError('HADAL_ERR_CONFIG', `${error.message}; take a smaller model, batch or seqLen`, {
      cause: error,
    });
  }
}
