// What terminal and plain display say of an event, so that both say the same.
import { formatBytes, formatCount, formatDuration, formatInteger } from '../core/format.js';
import type { EvaluationEvent, PrepareEvent, RoundEvent, StartEvent, StepEvent, TrainEvent } from '../train/events.js';
import { memoryLines } from './memory-lines.js';

/** Told every event of a run, in order. */
export type TrainListener = (event: TrainEvent) => void;

const phases: Record<PrepareEvent['phase'], string> = {
  tokenizer: 'training the tokenizer',
  data: 'tokenizing',
  model: 'preparing the model',
  program: 'planning the step',
};

/** What is under way before the first step. */
export function prepareLine({ phase, done, total }: PrepareEvent): string {
  const amount = total > 0 ? ` ${Math.floor((100 * done) / total)} %` : done > 0 ? ` ${formatInteger(done)}` : '';
  return `${phases[phase]}${amount}`;
}

/** What is trained, on what, where. */
export function startLines(event: StartEvent): string[] {
  const { parameters, activeParameters, trainTokens, heldOutTokens, device, threads, instructionSet, dtype, memory } =
    event;
  return [
    `model  ${formatCount(parameters)} parameters, ${formatCount(activeParameters)} active a token`,
    `data   ${formatCount(trainTokens)} tokens to train on, ${formatCount(heldOutTokens)} held out`,
    `device ${device}, ${threads} ${device === 'cpu' ? 'thread' : 'multiprocessor'}${threads === 1 ? '' : 's'}, ${instructionSet}, ${dtype}`,
    ...(event.worldSize > 1 ? [`world  ${event.worldSize} processes, this is rank ${event.rank}`] : []),
    ...memoryLines(memory).map((line, i) => `${i === 0 ? 'memory' : '      '} ${line}`),
    `run    ${event.runDir}${event.step > 0 ? `, continues after step ${formatInteger(event.step)}` : ''}`,
    ...event.notes.map((note) => `note   ${note}`),
  ];
}

/** Numbers of a step, the most important first. @param etaMs - time to go; null: not known yet */
export function stepFields(event: StepEvent, etaMs: number | null): string[] {
  const { loss, tokensPerSecond, expertImbalance, gradNorm, mtpLoss, lr, lossScale } = event;
  return [
    `loss ${loss.toFixed(4)}`,
    `${formatInteger(tokensPerSecond)} tokens/s`,
    ...(etaMs === null ? [] : [`ETA ${formatDuration(etaMs)}`]),
    ...(expertImbalance === null ? [] : [`balance ${expertImbalance.toFixed(2)}`]),
    ...(event.skipped ? [event.overflowed ? 'SKIPPED: gradient not finite' : 'SKIPPED by a rule'] : []),
    ...(mtpLoss === null ? [] : [`mtp ${mtpLoss.toFixed(4)}`]),
    `norm ${gradNorm.toFixed(2)}`,
    `lr ${lr.toExponential(1)}`,
    ...(lossScale === null ? [] : [`scale ${lossScale}`]),
    ...(event.world ? [communicationField(event.world)] : []),
  ];
}

/** Share of the step that was waited for the other processes, and what was sent for it. */
const communicationField = ({ commShare, wireBytesSent }: NonNullable<StepEvent['world']>): string =>
  `comm ${Math.round(100 * commShare)} % ${formatBytes(wireBytesSent)}`;

/** An evaluation in a line. */
export function evaluationLine({ step, evalLoss, emaEvalLoss, bitsPerByte, tokens }: EvaluationEvent): string {
  const means = emaEvalLoss === undefined ? '' : `, of the running means ${emaEvalLoss.toFixed(4)}`;
  return `eval   step ${formatInteger(step)}: held-out loss ${evalLoss.toFixed(4)}${means}, ${bitsPerByte.toFixed(4)} bits/byte (${formatInteger(tokens)} tokens)`;
}

/** Lines that stay on the screen; none for events that only move the display. */
export function lastingLines(event: TrainEvent): string[] {
  switch (event.type) {
    case 'start':
      return startLines(event);
    case 'evaluation':
      return [evaluationLine(event)];
    case 'checkpoint':
      return [`saved  ${event.path} (${formatBytes(event.bytes)})`];
    case 'warning':
      return [`warn   step ${formatInteger(event.step)}: ${event.message}`];
    case 'rollback':
      return [
        `back   from step ${formatInteger(event.from)} to step ${formatInteger(event.step)}, past the data read since`,
      ];
    case 'round':
      return [roundLine(event)];
    case 'end':
      return endLines(event);
    default:
      return [];
  }
}

function roundLine({ round, size, lost, step, from }: RoundEvent): string {
  const gone = lost.length === 0 ? '' : `, without rank${lost.length === 1 ? '' : 's'} ${lost.join(', ')} of the last`;
  const where = { memory: 'as held in memory', checkpoint: 'from its checkpoint', beginning: 'from the beginning' };
  return `round  ${round} of ${size} process${size === 1 ? '' : 'es'}${gone}: goes on after step ${formatInteger(step)}, ${where[from]}`;
}

function endLines(event: TrainEvent & { type: 'end' }): string[] {
  const { steps, tokens, seconds, loss, initialEvalLoss, evalLoss, bitsPerByte, skippedSteps } = event;
  const before = initialEvalLoss === null ? '' : ` (${initialEvalLoss.toFixed(4)} before training)`;
  const skipped = skippedSteps > 0 ? `, ${formatInteger(skippedSteps)} skipped` : '';
  return [
    `done   ${formatInteger(steps)} steps${skipped}, ${formatCount(tokens)} tokens in ${formatDuration(1000 * seconds)}; training loss ${loss.toFixed(4)}`,
    `       held-out loss ${evalLoss.toFixed(4)}${before}, ${bitsPerByte.toFixed(4)} bits/byte`,
  ];
}

/** Time to go, from the time that the steps so far took, evaluations and checkpoints included. */
export class Eta {
  #start: { ms: number; step: number } | null = null;

  constructor(private readonly now: () => number = () => performance.now()) {}

  /** Steps begin to count. @param step - updates that are done */
  begin(step: number): void {
    this.#start = { ms: this.now(), step };
  }

  /** Milliseconds; null before the first step is done. */
  left({ step, steps }: StepEvent): number | null {
    if (!this.#start || step <= this.#start.step) return null;
    return ((this.now() - this.#start.ms) / (step - this.#start.step)) * (steps - step);
  }
}
