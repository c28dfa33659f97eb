import type { Finding } from './rules.js';

/** What training takes memory for, in the order of tables. */
export const memoryKinds = [
  'weights',
  'gradients',
  'optimizer',
  'activations',
  'workspace',
  'buffers',
  'snapshot',
] as const;

export type MemoryKind = (typeof memoryKinds)[number];

/**
 * Bytes that training takes, by kind, planned before anything is allocated: weights with their 16-bit copies, gradients,
 * state of the optimizer, activations and gradients and workspaces of kernels where the step takes most, buffers (inputs,
 * outputs, programs, the window of what is offloaded), and the copy of it all, or of tensor after tensor, that a checkpoint
 * is saved from.
 */
export interface MemoryTable extends Record<MemoryKind, number> {
  /** All of these. */
  planned: number;
  /** Of these, what is allocated in blocks of native memory: the most that is ever in use there. */
  allocated: number;
  /** What a checkpoint holds. */
  saved: number;
  /** What lies in a file instead. */
  offloaded: number;
  /** What the process takes beside: what it took before anything was allocated, and some growth; null where nothing runs. */
  base: number | null;
  /** Planned and base: the process's resident memory. */
  total: number;
  /** What the run may take; null where nothing runs. */
  budget: number | null;
}

/** A phase before the first step is under way. */
export interface PrepareEvent {
  type: 'prepare';
  phase: 'tokenizer' | 'data' | 'model' | 'program';
  /** Done and whole, in the phase's own unit; whole is 0 where it is not known. */
  done: number;
  total: number;
}

/** Training begins (or goes on). */
export interface StartEvent {
  type: 'start';
  runDir: string;
  /** Updates that are already done. */
  step: number;
  steps: number;
  parameters: number;
  /** Parameters a token passes through. */
  activeParameters: number;
  trainTokens: number;
  heldOutTokens: number;
  device: string;
  threads: number;
  instructionSet: string;
  /** Number format of the computation. */
  dtype: string;
  memory: MemoryTable;
  /** Which process of how many tells this; rank 0 alone owns the run directory. */
  rank: number;
  worldSize: number;
  /** What resuming on this machine changes, if anything. */
  notes: string[];
}

/** Processes were lost or came; the run goes on. A new start event comes before it. */
export interface RoundEvent {
  type: 'round';
  /** Rounds before this one. */
  round: number;
  /** Processes now. */
  size: number;
  /** Ranks of the round before that are gone. */
  lost: number[];
  /** Updates that it goes on after, and where their state was found. */
  step: number;
  from: 'memory' | 'checkpoint' | 'beginning';
}

/** One update is done. */
export interface StepEvent {
  type: 'step';
  step: number;
  steps: number;
  /** Tokens trained on so far. */
  tokens: number;
  /** Mean cross-entropy of the main loss, nats a token. */
  loss: number;
  /** Mean over the MTP modules; null without any. */
  mtpLoss: number | null;
  /** Sequence-wise balance loss before its weight; null without experts. */
  balanceLoss: number | null;
  lr: number;
  /** Global norm of the gradients, before and after clipping. */
  gradNorm: number;
  clippedNorm: number;
  /** Nothing was updated: the gradient was not finite, or a rule left it out. */
  skipped: boolean;
  /** The gradient was not finite. */
  overflowed: boolean;
  /** What the loss was multiplied with; null without loss scaling. */
  lossScale: number | null;
  /** Busiest expert's load over the mean load, the worst layer's; 1 is perfect balance; null without experts. */
  expertImbalance: number | null;
  /** Variance of the last 64 finite losses, this one included; null before the second. */
  lossVariance: number | null;
  /** Greatest magnitude among the outputs of layers; null where they were not measured. */
  activationRange: number | null;
  /** Share of zeros in the layer output that has most; null where they were not measured. */
  zerosShare: number | null;
  tokensPerSecond: number;
  stepMs: number;
  /** Bytes of the process in memory. */
  residentBytes: number;
  /** Bytes of native memory in blocks: now, and the most there ever were. */
  allocatedBytes: number;
  allocatedPeakBytes: number;
  /** What the update had to do with other processes; absent where one trains alone. */
  world?: WorldMetrics;
}

/** The processes of an update, and what passed between them. */
export interface WorldMetrics {
  size: number;
  /** Rounds before, each ended by a process that was lost or came. */
  round: number;
  /** Milliseconds that collectives took, and of these what the computation waited for. */
  communicationMs: number;
  exposedMs: number;
  /** What the computation waited for, of the step's time. */
  commShare: number;
  /** Bytes that this process sent for it. */
  wireBytesSent: number;
  /** Milliseconds that compressing and unpacking gradients took, casts to 16 bits aside: they are part of sending. */
  compressionMs: number;
  /** What compression left of the gradients over what they are, both in norm; null where it keeps nothing of it. */
  compressionError: number | null;
}

/** Held-out text was evaluated. */
export interface EvaluationEvent {
  type: 'evaluation';
  step: number;
  /** Mean cross-entropy, nats a token. */
  evalLoss: number;
  bitsPerByte: number;
  /** The same of the running means of the weights, where they are kept. */
  emaEvalLoss?: number;
  /** Tokens predicted. */
  tokens: number;
}

/** A checkpoint is on disk, whole. It may come some updates after the one that it was made of. */
export interface CheckpointEvent {
  type: 'checkpoint';
  /** Updates that it holds. */
  step: number;
  path: string;
  bytes: number;
}

/** Something is wrong that the run survives. */
export interface WarningEvent {
  type: 'warning';
  step: number;
  message: string;
  /** The rule of `watch.rules` that applies, and the measure that it applies to; absent where it is none. */
  finding?: Finding;
}

/** The run went back to a checkpoint; it goes on behind the data that it had read. */
export interface RollbackEvent {
  type: 'rollback';
  /** The update after which it went back, and the one whose state it went back to. */
  from: number;
  step: number;
}

/** The run is over. The last event. */
export interface EndEvent {
  type: 'end';
  runDir: string;
  checkpoint: string;
  steps: number;
  tokens: number;
  seconds: number;
  loss: number;
  evalLoss: number;
  bitsPerByte: number;
  /** Held-out loss before the first update of this run; null when the run was resumed. */
  initialEvalLoss: number | null;
  skippedSteps: number;
}

/** What `train` yields. */
export type TrainEvent =
  | PrepareEvent
  | StartEvent
  | StepEvent
  | EvaluationEvent
  | CheckpointEvent
  | WarningEvent
  | RollbackEvent
  | RoundEvent
  | EndEvent;
