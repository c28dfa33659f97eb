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
}

/** Traces and plans a program of a training run. */
export function compileProgram({ model: config, program, step, threads }: CompileTask): Promise<WorkerResult<Plan>> {
  return toWorkerResult(() =>
    refusable(() => {
      const model = modelFromConfig(config);
      if (program === 'initialization') return compile(traceInitialization(model), threads);
      if (program === 'evaluation') return compile(traceEvaluation(model, step), threads);
      if (program === 'working-copies') return compile(traceWorkingCopies(model, step), threads);
      return compile(traceStep(model, step, program), threads);
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
