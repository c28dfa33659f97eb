// What saves memory, watches and saves, all at once: none of it changes a bit of what a run computes.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { PrecisionDType } from '../../src/passes/narrow.js';
import { BackingFile } from '../../src/runtime/backing-file.js';
import { type CompileOptions, compile } from '../../src/runtime/compile.js';
import { openDevice } from '../../src/runtime/device.js';
import { Snapshot } from '../../src/runtime/snapshot.js';
import { traceInitialization } from '../../src/train/initialization.js';
import type { Plans } from '../../src/train/planning.js';
import { type StepConfig, traceStep, traceWorkingCopies } from '../../src/train/step.js';
import { Stepper } from '../../src/train/stepper.js';
import { stepConfig, tinyBatch, tinyModel, updateInputs } from './tiny.js';

const directory = mkdtempSync(join(tmpdir(), 'hadal-together-'));
afterAll(() => rmSync(directory, { recursive: true }));

const threads = 2;
const model = tinyModel();

interface Run {
  recompute?: CompileOptions['recompute'];
  /** Whether every slot that may lies in a file, each update is watched, and its state is copied while it runs. */
  everything: boolean;
}

function plansOf(config: StepConfig, accumulates: boolean, { recompute = 'none', everything }: Run): Plans {
  const isOffloaded = ({ name }: { name: string }) => everything && !/^(metrics|load\/.*)$/.test(name);
  const step = (part: 'whole' | 'first' | 'next' | 'apply') =>
    compile(traceStep(model, config, part), threads, { isOffloaded, recompute });
  return {
    initialization: compile(traceInitialization(model), threads, { isOffloaded }),
    'working-copies': compile(traceWorkingCopies(model, config), threads, { isOffloaded }),
    ...(accumulates ? { first: step('first'), next: step('next'), apply: step('apply') } : { whole: step('whole') }),
  };
}

/** State before each of four updates, by slot, and what they told; the second one is left out. */
async function run(config: StepConfig, accumulates: boolean, options: Run) {
  using device = openDevice('cpu', { threads });
  using file = new BackingFile(directory);
  const watched = { ...config, watchesActivations: options.everything };
  using stepper = new Stepper(device, model, watched, plansOf(watched, accumulates, options), file);
  await stepper.initialize(1);
  const saved = [...stepper.parameters.keys(), ...stepper.stateSlots];
  const told: unknown[] = [];
  for (const step of [0, 1, 2, 3]) {
    const tensors = saved.map((name) => stepper.tensors.get(name)!);
    const snapshot = new Snapshot(device, tensors);
    snapshot.take();
    const stateOf = () => Promise.all(tensors.map((tensor) => snapshot.read(tensor, { ...tensor, offset: 0 })));
    if (!options.everything) await stateOf();
    const window = (accumulates ? [16, 11, 3] : [13]).map((length, i) => tinyBatch(9 * step + i, [16, length], 16));
    const change = { isWatched: options.everything, ...(step === 1 ? { skipAbove: 0 } : {}) };
    const { activations: _, times: __, ...result } = await stepper.update(window, updateInputs(step, change));
    const state = (await stateOf()).map((bytes) => Buffer.from(bytes).toString('base64'));
    told.push({ result, state: Object.fromEntries(saved.map((name, i) => [name, state[i]])) });
  }
  return told;
}

const schedule = { beta1End: 0.5, beta2End: 0.99, power: 2 };
const adaptive = { quantile: 0.5, window: 3, factor: 0.9 };
const mixed = [
  { match: '*.mlp.*', kind: 'sgd' as const, lrRatio: 0.5 },
  { match: '*o_proj*', trainable: false },
];
type Change = Partial<StepConfig['optimizer']>;
const cases: [PrecisionDType, boolean, CompileOptions['recompute'], Change][] = [
  ['fp32', true, { withinBytes: 1 }, { kind: 'adamw', betaSchedule: schedule, emaDecay: 0.5 }],
  ['bf16', false, 'selective', { kind: 'muon', groups: mixed }],
  ['fp16', true, 'sqrt', { kind: 'lion', momentDtype: 'bf16', emaDecay: 0.5 }],
  ['fp8', false, { every: 1 }, { kind: 'adamw', momentDtype: 'bf16', l4Decay: 0.01, groups: mixed }],
];

describe.runIf(process.platform === 'linux')('recomputation, a file, watching and snapshots', () => {
  it.each(cases)(
    'leave every bit as it is: %s, accumulated %s, %o, %o',
    async (dtype, accumulates, recompute, change) => {
      const base = stepConfig(2, 16, dtype);
      const optimizer = { ...base.optimizer, ...change, steps: 4 };
      const config = { ...base, optimizer, clip: { norm: 1, value: 0.1, adaptive } };
      const plain = await run(config, accumulates, { everything: false });
      expect(await run(config, accumulates, { recompute, everything: true })).toEqual(plain);
    },
  );
});
