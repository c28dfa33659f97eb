// What processes tell each other of where a run stands.
import { expect, it } from 'vitest';
import { describeFinding, type Finding } from '../../src/train/rules.js';
import { type Progress, RunState, type StateParts } from '../../src/train/run-state.js';

it('what rules found comes to the other processes as it is, ∞ and NaN too', async () => {
  const finding: Finding = {
    ...{ metric: 'activationRange', action: 'stop', bound: 'above', limit: 10, factor: 1 },
    ...{ value: Number.POSITIVE_INFINITY, where: 'model.layers.1' },
  };
  const owed = [finding, { ...finding, metric: 'loss', value: Number.NaN }] as const;
  const kept = { state: { step: 3 }, owed, lines: [], lastLoss: Number.NaN } as unknown as Progress;
  const parts = {
    together: { isFirst: false, fromFirst: async (_: string, value: unknown) => JSON.parse(JSON.stringify(value)) },
    stepper: { config: { dist: null }, refreshWorkingCopies: async () => {} },
  } as unknown as StateParts;
  const state = new RunState(parts, kept);
  await state.load(true);
  expect(state.progress.owed).toEqual(owed);
  expect(state.progress.owed?.map(describeFinding)[0]).toMatch(
    /^activation range Infinity of model.layers.1 is above 10/,
  );
});
