import { describe, expect, it } from 'vitest';
import { openSession, Session } from '../../src/session/session.js';
import { goldenDir, readGolden, rowsOf } from '../goldens/golden.js';
import { relativeNorm } from '../support/compare.js';

const open = (name: string) => openSession(goldenDir(name), { device: 'cpu', threads: 2 });

describe('forward', () => {
  it('pads rows of different lengths without their seeing it', async () => {
    using session = await open('deepseek_v3');
    const rows = [
      [5, 6, 7, 8, 9],
      [10, 11],
      [12, 13, 14, 15],
    ];
    const { logits, shape } = await session.forward(rows);
    const [batch, tokens, vocab] = shape;
    expect(shape).toEqual([3, 5, 101]);
    expect(logits).toHaveLength(batch * tokens * vocab);
    for (const [b, row] of rows.entries()) {
      const alone = await session.forward([row]);
      const begin = b * tokens * vocab;
      expect(relativeNorm(logits.subarray(begin, begin + row.length * vocab), alone.logits)).toBeLessThan(1e-6);
    }
  });

  it('gives the same bits again, and in parallel with other calls', async () => {
    using session = await open('deepseek_v2');
    const golden = await readGolden('deepseek_v2');
    const [ids, labels] = [rowsOf(golden, 'input_ids'), rowsOf(golden, 'labels')];
    const first = await session.forward(ids);
    const [second, gradients, other] = await Promise.all([
      session.forward(ids),
      session.lossAndGradients(ids, labels),
      session.forward([[1]]),
    ]);
    expect(second).toEqual(first);
    expect(other.shape).toEqual([1, 1, 109]);
    expect(await session.lossAndGradients(ids, labels)).toEqual(gradients);
  });

  it('compiles anew what fell out of the cache', async () => {
    using session = await open('gpt2');
    const first = await session.forward([[1, 2]]);
    for (let tokens = 1; tokens <= 31; tokens++) await session.forward([Array.from({ length: tokens }, () => 3)]);
    for (let rows = 2; rows <= 4; rows++) await session.forward(Array.from({ length: rows }, () => [3]));
    expect(await session.forward([[1, 2]])).toEqual(first);
  });
});

describe('lossAndGradients', () => {
  it('has zeros for what the loss does not reach: experts without tokens, prediction modules', async () => {
    using session = await open('deepseek_v3_mtp');
    const { gradients } = await session.lossAndGradients([[4, 5]], [[4, 5]]);
    const isZero = (name: string) => gradients.get(name)?.data.every((x) => x === 0);
    const module = [...gradients.keys()].filter((name) => name.startsWith('model.layers.2.'));
    expect(module.length).toBeGreaterThan(20);
    expect(module.filter((name) => !isZero(name))).toEqual([]);
    const experts = [...gradients.keys()].filter((name) => /layers\.1\.mlp\.experts.*down/.test(name));
    expect(experts).toHaveLength(8);
    expect(experts.filter(isZero).length).toBeGreaterThan(3);
    expect(isZero('model.layers.0.mlp.gate_proj.weight')).toBe(false);
    expect(gradients.has('model.layers.1.mlp.gate.e_score_correction_bias')).toBe(false);
  });

  it('is the mean over the labels that count, in rows of any length', async () => {
    using session = await open('gpt2');
    const [a, b] = [
      [3, 1, 4, 1, 5],
      [9, 2, 6],
    ];
    const one = await session.lossAndGradients([a], [[-100, 1, -100, 1, -100]]);
    const other = await session.lossAndGradients([b], [[9, 2, 6]]);
    const both = await session.lossAndGradients(
      [a, b],
      [
        [7, 1, -100, 1, -100],
        [9, 2, 6],
      ],
    );
    expect(both.loss).toBeCloseTo((one.loss + other.loss) / 2, 5);
    const name = 'transformer.wte.weight';
    const mean = one.gradients.get(name)?.data.map((x, i) => (x + (other.gradients.get(name)?.data[i] as number)) / 2);
    expect(relativeNorm(both.gradients.get(name)?.data ?? [], mean ?? [])).toBeLessThan(1e-6);
  });
});

describe('bad input', () => {
  it('is refused by name', async () => {
    using session = await open('gpt2');
    const refusal = (message: RegExp) => ({ code: 'HADAL_ERR_DATA', message: expect.stringMatching(message) });
    await expect(session.forward([])).rejects.toMatchObject(refusal(/row/));
    await expect(session.forward([[1], []])).rejects.toMatchObject(refusal(/none in row 1/));
    await expect(session.forward([[1, 97]])).rejects.toMatchObject(refusal(/0 to 96, got 97 in row 0/));
    for (const id of [-1, 0.5, Number.NaN])
      await expect(session.forward([[id]])).rejects.toMatchObject(refusal(/token ids/));
    await expect(session.forward([new Array<number>(32).fill(1)])).rejects.toMatchObject(
      refusal(/at most 31 tokens, got 32/),
    );
    await expect(session.lossAndGradients([[1, 2]], [[1, 97]])).rejects.toMatchObject(refusal(/labels/));
    await expect(session.lossAndGradients([[1, 2]], [[1, -100]])).rejects.toMatchObject(refusal(/count/));
    await expect(session.lossAndGradients([[1, 2]], [[1]])).rejects.toMatchObject({ code: 'HADAL_ERR_SHAPE' });
    await expect(session.lossAndGradients([[1, 2]], [])).rejects.toMatchObject({ code: 'HADAL_ERR_SHAPE' });
    expect((await session.forward([[1, 2]])).shape).toEqual([1, 2, 97]);
  });

  it('a disposed session answers with an error, also to calls under way', async () => {
    const session = await open('deepseek_v3');
    const calls = Array.from({ length: 8 }, () => session.forward([[1, 2, 3]]));
    session.dispose();
    session.dispose();
    for (const result of await Promise.allSettled(calls)) {
      if (result.status === 'rejected') expect(result.reason).toHaveProperty('code');
    }
    await expect(session.forward([[1]])).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
    await expect(session.save('/nowhere/at/all')).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });

  it('a session that does not own its parts leaves them', async () => {
    using owner = await open('gpt2');
    const first = await owner.forward([[1, 2]]);
    const parts = { model: owner.model, device: owner.device, tokenizer: null, tensors: owner.tensors };
    const guest = new Session(parts);
    expect(await guest.forward([[1, 2]])).toEqual(first);
    guest.dispose();
    expect(await owner.forward([[1, 2]])).toEqual(first);
  });
});
