import { describe, expect, it } from 'vitest';
import { SpeculativeDecoder } from '../../src/generate/speculative.js';
import { openSession, type Session } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';
import { argmax, draftsAnew, greedyAnew, logitsAnew, randomIds, speculationAnew, trainedModel } from './reference.js';

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
    [2, 'pre-norm'],
    [3, 'post-norm'],
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
      // Some are wrong, so that steps go back.
      expect(accepted).toBeGreaterThan(drafted / 2);
      expect(accepted).toBeLessThan(0.9 * drafted);
    });
  }

  it('drafts what whole sequences give, also behind drafts that were wrong', async () => {
    // Weights so large that every draft hangs on every token before it.
    using untrained = await trainedModel(0, { num_nextn_predict_layers: 3, initializer_range: 0.5 });
    const { session } = untrained;
    const passes: Int32Array[] = [];
    const run = session.run.bind(session);
    session.run = (program, slots, inputs) => {
      const isCheck = program.outputs.some(({ name }) => name.startsWith('state/0/'));
      if (isCheck) passes.push((inputs.tokens as Int32Array).slice(0, (inputs.counts as Int32Array)[0]));
      return run(program, slots, inputs);
    };
    const prompt = randomIds('untrained', 5, 61);
    const { steps } = await speculate(session, prompt, 10);
    session.run = run;
    const known = [...prompt];
    for (const [i, { ids }] of steps.entries()) {
      const drafts = [...(passes[i] as Int32Array)].slice(-3);
      if (i > 0) expect(drafts).toEqual(await draftsAnew(session, known, 3));
      known.push(...ids);
    }
  });

  it('goes on behind several tokens, as of a further message', async () => {
    using trained = await trainedModel(120, { num_nextn_predict_layers: 2 });
    const { session } = trained;
    const [prompt = [], message = []] = trained.rows(2, 9);
    using decoder = new SpeculativeDecoder(session, { positions: 64 });
    const known = [...prompt];
    known.push(...(await decoder.step(prompt, argmax)).ids);
    known.push(...(await decoder.step(known.slice(-1), argmax)).ids);
    const said = known.slice(-1);
    known.push(...message);
    const expected = await greedyAnew(session, known, 12);
    const steps = [await decoder.step([...said, ...message], argmax)];
    while (steps.flatMap(({ ids }) => ids).length < 12)
      steps.push(await decoder.step(steps.at(-1)?.ids.slice(-1) as number[], argmax));
    expect(steps.flatMap(({ ids }) => ids).slice(0, 12)).toEqual(expected.ids);
    expect(steps.some(({ accepted }) => accepted > 0)).toBe(true);
  });

  it('equals plain decoding where no draft is any good', async () => {
    using session = await openSession(goldenDir('deepseek_v3_mtp'), { device: 'cpu', threads: 2 });
    for (const length of [1, 15, 16, 17]) {
      const prompt = randomIds(`speculation ${length}`, length, 101);
      const { ids } = await speculate(session, prompt, 12);
      expect(ids.slice(0, 12)).toEqual((await greedyAnew(session, prompt, 12)).ids);
    }
  });
});

describe('a speculative step', () => {
  const open = () => openSession(goldenDir('deepseek_v3_mtp'), { device: 'cpu', threads: 2 });

  it('takes what is chosen, whatever it is, and counts drafts that are', async () => {
    using session = await open();
    const worst = (logits: Float32Array) => argmax(logits.map((logit) => -logit));
    const { steps, ids } = await speculate(session, [5, 6, 7], 8, worst);
    expect(steps.map(({ accepted }) => accepted)).toEqual(new Array(8).fill(0));
    expect(steps.map(({ drafted }) => drafted)).toEqual([0, ...new Array(7).fill(1)]);
    const anew = [5, 6, 7];
    for (const id of ids) {
      expect(id).toBe(worst(await logitsAnew(session, anew)));
      anew.push(id);
    }
  });

  it('chooses nothing after an end, and goes on from there', async () => {
    using trained = await trainedModel(120);
    const { session } = trained;
    const [prompt = []] = trained.rows(1, 12);
    const steps = await speculationAnew(session, prompt, 12);
    const at = steps.findIndex(({ accepted }) => accepted === 1);
    const end = steps[at]?.ids[0] as number;
    using decoder = new SpeculativeDecoder(session, { positions: 64 });
    let fed: readonly number[] = prompt;
    for (const step of steps.slice(0, at)) {
      expect(await decoder.step(fed, argmax)).toEqual(step);
      fed = step.ids.slice(-1);
    }
    expect(await decoder.step(fed, argmax, (id) => id === end)).toEqual({ ids: [end], drafted: 1, accepted: 1 });
    const known = [...prompt, ...steps.slice(0, at).flatMap(({ ids }) => ids), end];
    const [next] = (await greedyAnew(session, known, 1)).ids;
    expect((await decoder.step([end], argmax)).ids[0]).toBe(next);
  });

  it('ends where the positions end, and changes nothing when it is refused', async () => {
    using session = await open();
    const prompt = randomIds('full', 60, 101);
    const { ids } = await greedyAnew(session, prompt, 5);
    const follow = (decoder: SpeculativeDecoder, fed: readonly number[]) => decoder.step(fed, argmax);
    using decoder = new SpeculativeDecoder(session, { positions: 64 });
    const found = [...(await follow(decoder, prompt)).ids];
    while (found.length < 4) found.push(...(await follow(decoder, found.slice(-1))).ids);
    await expect(follow(decoder, [1, 2, 3])).rejects.toMatchObject({ code: 'HADAL_ERR_DATA', message: /at most 64/ });
    await expect(follow(decoder, [])).rejects.toMatchObject({ code: 'HADAL_ERR_DATA', message: /tokens to feed/ });
    while (found.length < 5) {
      const step = await follow(decoder, found.slice(-1));
      found.push(...step.ids);
      if (found.length >= 5) expect(step.drafted).toBe(found.length - step.ids.length === 4 ? 0 : 1);
    }
    expect(found).toEqual(ids);
    await expect(follow(decoder, [1])).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
  });

  it('needs prediction modules', async () => {
    for (const name of ['deepseek_v3', 'gpt2']) {
      using session = await openSession(goldenDir(name), { device: 'cpu', threads: 2 });
      expect(() => new SpeculativeDecoder(session, { positions: 8 })).toThrow(
        expect.objectContaining({ code: 'HADAL_ERR_CONFIG', message: expect.stringContaining('prediction modules') }),
      );
    }
  });
});
