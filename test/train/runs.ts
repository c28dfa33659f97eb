// Whole runs of the smallest model on text made by code: a second or two each.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { train } from '../../src/train/train.js';
import { tinyConfig } from './tiny.js';

/** Two steps' worth of every part of DeepSeek-V3; the vocabulary is the bytes and a few merges. */
export const runModel = { ...tinyConfig, vocab_size: 280 };

/** A folder for the runs of a test file; prepared data are shared by them. */
export class RunFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'hadal-runs-'));
  #count = 0;

  /** Options of a run in a new directory. */
  options(change: Partial<TrainOptions> = {}): TrainOptions {
    return {
      model: { config: runModel },
      data: { sources: ['synthetic'], cache: join(this.path, 'data') },
      out: join(this.path, `run-${this.#count++}`),
      steps: 6,
      batch: 2,
      seqLen: 24,
      optimizer: { lr: 1e-2, warmupSteps: 2 },
      evaluation: { batches: 2 },
      seed: 5,
      threads: 2,
      ...change,
    };
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Runs to the end. */
export async function runAll(options: TrainOptions, signal?: AbortSignal): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train(options, signal ? { signal } : {})) events.push(event);
  return events;
}

/** Runs until an event for which `isLast` holds, and leaves the loop there. */
export async function runUntil(options: TrainOptions, isLast: (event: TrainEvent) => boolean): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train(options)) {
    events.push(event);
    if (isLast(event)) break;
  }
  return events;
}

/** The events of one type. */
export const eventsOf = <T extends TrainEvent['type']>(events: readonly TrainEvent[], type: T) =>
  events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type);

/** A line of metrics without times and memory, which differ from run to run. */
export function withoutMeasures(line: Record<string, unknown>): Record<string, unknown> {
  const { tokensPerSecond, stepMs, residentBytes, allocatedBytes, allocatedPeakBytes, ...rest } = line;
  return rest;
}

/** Lines of metrics.jsonl {@link withoutMeasures}. */
export function metricsOf(run: string): Record<string, unknown>[] {
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  return lines.map((line) => withoutMeasures(JSON.parse(line) as Record<string, unknown>));
}

export const checkpointsOf = (run: string): string[] => readdirSync(join(run, 'checkpoints')).sort();

/** Every file of a checkpoint: weights, optimizer, state, and the manifest over them. */
export function contentsOf(checkpoint: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(checkpoint)
      .sort()
      .map((name) => [name, readFileSync(join(checkpoint, name), 'base64')]),
  );
}

/** The files of the newest checkpoint. */
export const lastContentsOf = (run: string): Record<string, string> =>
  contentsOf(join(run, 'checkpoints', checkpointsOf(run).at(-1) as string));

/** Every file below a directory, to show that nothing was touched. */
export function snapshotOf(dir: string): Record<string, string> {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map(({ parentPath, name }) => join(parentPath, name)).sort();
  return Object.fromEntries(paths.map((path) => [path, readFileSync(path, 'base64')]));
}
