import { describe, expect, it } from 'vitest';
import { SpeculativeDecoder } from '../../src/generate/speculative.js';
import { openSession, type Session } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';
import { argmax, greedyAnew, randomIds, speculationAnew, trainedModel } from './reference.js';

/** Steps until `count` tokens are there. */
async function speculate(
  session: Session,
  prompt: readonly number[],
  count: number,
  choose: (logits: Float32Array) => number = argmax,
) {
  using decoder = new SpeculativeDecoder(session, { positions: prompt.length + count + session.model.mtpDepth });
  const steps = [await decoder.step(prompt, choose)];
  const ids = () => steps.flatMap((step) => step.ids);
  while (ids().length < count) steps.push(await decoder.step(ids().slice(-1), choose));
  return { steps, ids: ids() };
}

describe('greedy speculation', () => {
  for (const [depth, mtpHidden] of [
    [1, 'post-norm'],
    [1, 'pre-norm'],
    [2, 'post-norm'],
    [3, 'pre-norm'],
  ] as const) {
    it(`with ${depth} modules on ${mtpHidden} states takes the steps that whole sequences give`, async () => {
      using trained = await trainedModel(120, { num_nextn_predict_layers: depth, mtp_hidden: mtpHidden });
      const { session } = trained;
      let [drafted, accepted] = [0, 0];
      for (const length of [1, 2, 3, 16, 17]) {
        const [prompt = []] = trained.rows(1, length);
        const expected = await speculationAnew(session, prompt, 16);
        const { steps } = await speculate(session, prompt, 16);
        expect(steps, `${length} tokens`).toEqual(expected);
        for (const step of steps) [drafted, accepted] = [drafted + step.drafted, accepted + step.accepted];
      }
      console.log(`depth ${depth}: ${accepted} of ${drafted} drafts accepted`);
      expect(accepted).toBeGreaterThan(drafted / 4);
    });
  }

  it('equals plain decoding where no draft is any good', async () => {
    using session = await openSession(goldenDir('deepseek_v3_mtp'), { device: 'cpu', threads: 2 });
    for (const length of [1, 15, 16, 17]) {
      const prompt = randomIds(`speculation ${length}`, length, 101);
      const { ids } = await speculate(session, prompt, 12);
      expect(ids.slice(0, 12)).toEqual((await greedyAnew(session, prompt, 12)).ids);
    }
  });
});
