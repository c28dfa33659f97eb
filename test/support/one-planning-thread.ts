// Runs of training within a test file plan on one thread, which knows its code after the first of them, in place of a new
// thread each, which takes longer to begin than to plan a tiny model. What ends the thread of a run is tested by
// processes: test/cli, test/train/kill.test.ts, test/runtime/ending.test.ts.
import { afterAll, vi } from 'vitest';
import type { WorkerPool } from '../../src/data/worker-pool.js';
import type { Model } from '../../src/models/model.js';
import type { Plan } from '../../src/runtime/plan.js';
import type { Target } from '../../src/runtime/target.js';
import type { CompileTask } from '../../src/train/compile-worker.js';

const opened = vi.hoisted(() => ({ pool: undefined as WorkerPool | undefined }));

vi.mock(import('../../src/train/planning.js'), async (importOriginal) => {
  const original = await importOriginal();
  const { WorkerPool } = await import('../../src/data/worker-pool.js');
  const worker = new URL('../../dist/train/compile-worker.js', import.meta.url);
  const compile = (task: CompileTask) => {
    opened.pool ??= new WorkerPool(worker, 1);
    return opened.pool.run<Plan>('compileProgram', task);
  };
  class Planner extends original.Planner {
    constructor(model: Model, target: Target, planHere = compile) {
      super(model, target, planHere);
    }
  }
  return { ...original, Planner };
});

afterAll(() => opened.pool?.[Symbol.asyncDispose]());
