// A run that goes on with other numbers of processes, and at other ZeRO stages; the long form is `npm run accept -- world-size`.
import { afterAll, describe, expect, it } from 'vitest';
import type { Batch } from '../../src/data/batch.js';
import type { TrainEvent } from '../../src/train/events.js';
import type { TrainOptions } from '../../src/train/options.js';
import { type TrainHooks, train } from '../../src/train/train.js';
import { localWorlds } from '../support/worlds.js';
import { checkpointsOf, eventsOf, RunFolder } from './runs.js';
import { distance, runRank, weightsOf } from './together.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const steps = 6;
/** Rows that do not divide among four. Small steps: routers decide alike all the way. */
const newOptions = () => folder.options({ threads: 1, batch: 6, steps, optimizer: { lr: 1e-3, warmupSteps: 2 } });

/** Some processes of a run. */
interface Part {
  size: number;
  zero: number;
  /** Step that they end after. */
  last: number;
}

/** Rows that are not padding, as text. */
function rowsOf({ batch, seqLen, tokens, labels, docIds }: Batch): string[] {
  return Array.from({ length: batch }, (_, row) => {
    const [ids, ...others] = [docIds, tokens, labels].map((all) => all.subarray(row * seqLen, (row + 1) * seqLen));
    return ids?.every((id) => id < 0) ? [] : [[ids, ...others].join('|')];
  }).flat();
}

/** What the updates of a run read, by step, in no order. */
class Reads {
  readonly rows = new Map<number, string[]>();

  /** A hook of one process that goes on behind step `before`. */
  after(before: number): (window: readonly Batch[]) => readonly Batch[] {
    let step = before;
    return (window) => {
      step++;
      this.rows.set(step, [...(this.rows.get(step) ?? []), ...window.flatMap(rowsOf)].sort());
      return window;
    };
  }
}

/** Goes on with a run in so many processes; events of rank 0. */
async function goOn(run: TrainOptions, { size, zero, last }: Part, hooks: () => TrainHooks): Promise<TrainEvent[]> {
  const options = { ...run, dist: { zero }, resume: true };
  const events: TrainEvent[] = [];
  if (size === 1) {
    for await (const event of train(options, hooks())) events.push(event);
    return events;
  }
  const stop = new AbortController();
  await using local = await localWorlds(size);
  const told = await Promise.all(
    local.worlds.map((world) =>
      runRank(world, options, { ...hooks(), signal: stop.signal }, (event) => {
        if (event.type === 'step' && event.step === last - 1 && last < steps) stop.abort();
      }),
    ),
  );
  const ends = told.map(({ error }) => error?.code ?? null);
  expect(ends).toEqual(ends.map(() => (last < steps ? 'HADAL_ERR_ABORTED' : null)));
  return told[0]?.events ?? [];
}

/** A run in parts. */
async function trained(parts: readonly Part[]) {
  const run = newOptions();
  const reads = new Reads();
  const events: TrainEvent[] = [];
  let before = 0;
  for (const part of parts) {
    const from = before;
    events.push(...(await goOn(run, part, () => ({ alterWindow: reads.after(from) }))));
    before = part.last;
  }
  return { run, reads, updates: eventsOf(events, 'step'), starts: eventsOf(events, 'start') };
}

describe('a run whose processes become others', () => {
  const whole = trained([{ size: 1, zero: 0, last: steps }]);

  it.each<[string, Part[]]>([
    [
      '4, then 2, then 3',
      [
        { size: 4, zero: 0, last: 2 },
        { size: 2, zero: 0, last: 4 },
        { size: 3, zero: 0, last: steps },
      ],
    ],
    [
      '4 of ZeRO 2, then 2 of ZeRO 3, then one',
      [
        { size: 4, zero: 2, last: 2 },
        { size: 2, zero: 3, last: 4 },
        { size: 1, zero: 0, last: steps },
      ],
    ],
  ])('%s reads the batches of one that stays as it is, and computes the same', async (_, parts) => {
    const [expected, { run, reads, updates, starts }] = [await whole, await trained(parts)];
    expect(starts.map(({ step }) => step)).toEqual([0, 2, 4]);
    for (const [i, { notes }] of starts.slice(1).entries()) {
      const said = `${parts[i]?.size} processes of ZeRO stage ${parts[i]?.zero}.* not bit for bit`;
      expect(notes).toEqual([expect.stringMatching(said)]);
    }
    expect(reads.rows).toEqual(expected.reads.rows);
    for (const [i, { step, tokens, loss, expertImbalance }] of updates.entries()) {
      const other = expected.updates[i];
      expect([step, tokens, expertImbalance]).toEqual([other?.step, other?.tokens, other?.expertImbalance]);
      expect(Math.abs(loss - (other?.loss ?? 0)) / loss).toBeLessThan(5e-6);
    }
    expect(updates).toHaveLength(steps);
    expect(checkpointsOf(run.out)).toEqual(['step-00000004', 'step-00000006']);
    expect(distance(await weightsOf(run.out), await weightsOf(expected.run.out))).toBeLessThan(1e-5);
  });
});
