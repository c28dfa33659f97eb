// Events of an imagined run, for displays and writers.
import type { EndEvent, EvaluationEvent, StartEvent, StepEvent } from '../../src/train/events.js';

export function start(fields: Partial<StartEvent> = {}): StartEvent {
  return {
    type: 'start',
    runDir: 'runs/shallow-1',
    step: 0,
    steps: 400,
    parameters: 7_243_128,
    activeParameters: 4_102_000,
    trainTokens: 2_481_920,
    heldOutTokens: 131_072,
    device: 'cpu',
    threads: 2,
    instructionSet: 'avx512',
    dtype: 'fp32',
    memory: {
      weights: 28_972_512,
      gradients: 10_000_000,
      optimizer: 57_945_024,
      activations: 380_000_000,
      workspace: 20_000_000,
      buffers: 1_000_000,
      snapshot: 0,
      planned: 497_917_536,
      allocated: 496_917_536,
      saved: 86_917_536,
      offloaded: 0,
      base: 120_000_000,
      total: 617_917_536,
      budget: 12 * 2 ** 30,
    },
    rank: 0,
    worldSize: 1,
    notes: [],
    ...fields,
  };
}

export function step(fields: Partial<StepEvent> = {}): StepEvent {
  return {
    type: 'step',
    step: 1,
    steps: 400,
    tokens: 2048,
    loss: 8.3178,
    mtpLoss: 8.3211,
    balanceLoss: 1.01,
    lr: 5e-5,
    gradNorm: 1.234,
    clippedNorm: 1,
    overflowed: false,
    lossScale: null,
    skipped: false,
    expertImbalance: 1.42,
    lossVariance: 0.02,
    activationRange: null,
    zerosShare: null,
    tokensPerSecond: 5123.4,
    stepMs: 400,
    residentBytes: 600_000_000,
    allocatedBytes: 496_917_536,
    allocatedPeakBytes: 496_917_536,
    ...fields,
  };
}

export function evaluation(fields: Partial<EvaluationEvent> = {}): EvaluationEvent {
  return { type: 'evaluation', step: 100, evalLoss: 4.5, bitsPerByte: 1.6543, tokens: 32768, ...fields };
}

export function end(fields: Partial<EndEvent> = {}): EndEvent {
  return {
    type: 'end',
    runDir: 'runs/shallow-1',
    checkpoint: 'runs/shallow-1/checkpoints/step-00000400',
    steps: 400,
    tokens: 819_200,
    seconds: 151,
    loss: 3.9,
    evalLoss: 4.01,
    bitsPerByte: 1.5012,
    initialEvalLoss: 8.3178,
    skippedSteps: 0,
    ...fields,
  };
}
