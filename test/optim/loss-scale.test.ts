import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { leastLossScale, lossScaleSlot, updateLossScale } from '../../src/optim/loss-scale.js';
import { programRunner } from '../support/program-runner.js';

async function scaling(initial: number) {
  const graph = new Graph();
  const config = { initial, growth: 2, backoff: 0.5, growthInterval: 3 };
  updateLossScale(graph, graph.input('finite', [1], 'fp32'), config);
  const run = await programRunner(graph, { [lossScaleSlot]: [initial] });
  return async (finite: boolean) => (await run({ finite: [Number(finite)] }))[lossScaleSlot]?.[0];
}

describe('the loss scale', () => {
  it('grows after so many updates in a row without overflow', async () => {
    const scaleAfter = await scaling(8);
    expect([await scaleAfter(true), await scaleAfter(true), await scaleAfter(true)]).toEqual([8, 8, 16]);
    expect([await scaleAfter(true), await scaleAfter(true), await scaleAfter(true)]).toEqual([16, 16, 32]);
  });

  it('backs off at once after an overflow and counts anew', async () => {
    const scaleAfter = await scaling(8);
    expect([await scaleAfter(true), await scaleAfter(true), await scaleAfter(false)]).toEqual([8, 8, 4]);
    expect([await scaleAfter(true), await scaleAfter(true), await scaleAfter(true)]).toEqual([4, 4, 8]);
    expect([await scaleAfter(false), await scaleAfter(false)]).toEqual([4, 2]);
  });

  it('falls no further than to its least', async () => {
    const scaleAfter = await scaling(2 * leastLossScale);
    expect([await scaleAfter(false), await scaleAfter(false)]).toEqual([leastLossScale, leastLossScale]);
  });
});
