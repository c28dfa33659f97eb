import { describe, expect, it } from 'vitest';
import type { CacheForm } from '../../src/generate/cached-programs.js';
import { CachedDecoder } from '../../src/generate/decoder.js';
import { openSession, type Session } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';
import { compare } from '../support/compare.js';
import { argmax, greedyAnew, randomIds, trainedModel } from './reference.js';

const open = (name: string) => openSession(goldenDir(name), { device: 'cpu', threads: 2 });

/** Greedy tokens of each row, `counts` of them; rows that have theirs are fed nothing while the others go on. */
async function decode(
  session: Session,
  prompts: readonly (readonly number[])[],
  counts: readonly number[],
  options: { cache?: CacheForm; positions?: number } = {},
) {
  const longest = Math.max(...prompts.map((prompt, b) => prompt.length + (counts[b] as number)));
  using decoder = new CachedDecoder(session, { rows: prompts.length, positions: longest, ...options });
  const ids = prompts.map((): number[] => []);
  const logits = prompts.map((): Float32Array[] => []);
  let next: readonly (readonly number[])[] = prompts;
  while (next.some((row) => row.length > 0)) {
    const found = await decoder.feed(next);
    next = found.map((row, b) => {
      if (!row) return [];
      logits[b]?.push(row);
      ids[b]?.push(argmax(row));
      return (ids[b]?.length as number) < (counts[b] as number) ? [argmax(row)] : [];
    });
  }
  return { ids, logits };
}

function expectClose(about: string, found: readonly Float32Array[], expected: readonly Float32Array[]): void {
  expect(found).toHaveLength(expected.length);
  for (const [i, logits] of expected.entries()) {
    const allowed = 2e-5 * Math.max(...logits.map(Math.abs));
    compare(`${about}, token ${i}`, found[i] as Float32Array, logits, { allowed });
  }
}

describe('latent and expanded caches', () => {
  const names =
    'deepseek_v3 deepseek_v3_no_q_lora deepseek_v3_half_rope deepseek_v3_yarn deepseek_v2 deepseek_v2_group';
  for (const name of names.split(' ')) {
    it(`give ${name} the tokens of whole sequences`, async () => {
      using session = await open(name);
      for (const length of [1, 2, 16, 17, 40]) {
        const prompt = randomIds(`${name} ${length}`, length, session.model.vocabSize);
        const anew = await greedyAnew(session, prompt, 10);
        for (const cache of ['latent', 'expanded'] as const) {
          const { ids, logits } = await decode(session, [prompt], [10], { cache });
          expect(ids[0], `${length} tokens, ${cache}`).toEqual(anew.ids);
          expectClose(`${length} tokens, ${cache}`, logits[0] as Float32Array[], anew.logits);
        }
      }
    });
  }

  it('give a trained model the tokens of whole sequences', async () => {
    using trained = await trainedModel(120);
    for (const prompt of trained.rows(4, 12)) {
      const anew = await greedyAnew(trained.session, prompt, 40);
      for (const cache of ['latent', 'expanded'] as const) {
        const { ids, logits } = await decode(trained.session, [prompt], [40], { cache });
        expect(ids[0], cache).toEqual(anew.ids);
        expectClose(cache, logits[0] as Float32Array[], anew.logits);
      }
    }
  });

  it('continue behind what is cached with many tokens at once', async () => {
    using session = await open('deepseek_v3');
    const ids = randomIds('in parts', 60, 101);
    const anew = await greedyAnew(session, ids, 1);
    for (const cache of ['latent', 'expanded'] as const) {
      using decoder = new CachedDecoder(session, { positions: 60, cache });
      for (const [begin, end] of [
        [0, 3],
        [3, 20],
        [20, 21],
        [21, 59],
      ] as const)
        await decoder.feed([ids.slice(begin, end)]);
      const [logits] = await decoder.feed([ids.slice(59)]);
      expectClose(cache, [logits as Float32Array], anew.logits);
    }
  });

  it('work in 16 bits', async () => {
    using session = await openSession(goldenDir('deepseek_v3'), { device: 'cpu', threads: 2, dtype: 'bf16' });
    const prompt = randomIds('bf16', 20, 101);
    const [latent, expanded] = await Promise.all(
      (['latent', 'expanded'] as const).map(async (cache) => (await decode(session, [prompt], [1], { cache })).logits),
    );
    const reference = expanded?.[0]?.[0] as Float32Array;
    const allowed = 0.03 * Math.max(...reference.map(Math.abs));
    compare('logits', latent?.[0]?.[0] as Float32Array, reference, { allowed });
  });
});

describe('rows of unequal length', () => {
  for (const [name, cache] of [
    ['deepseek_v3', 'latent'],
    ['deepseek_v3', 'expanded'],
    ['deepseek_v2_group', 'latent'],
    ['gpt2', 'expanded'],
    ['llama', 'expanded'],
  ] as const) {
    it(`get the tokens that each of them gets alone: ${name}, ${cache}`, async () => {
      using session = await open(name);
      // The second row ends early, the third fills its positions, the last one is fed from the beginning of a bucket.
      const lengths = [3, 1, 21, 16];
      const counts = [9, 1, 10, 5];
      const prompts = lengths.map((length, b) => randomIds(`row ${b}`, length, session.model.vocabSize));
      const together = await decode(session, prompts, counts, { cache, positions: 31 });
      for (const [b, prompt] of prompts.entries()) {
        const alone = await decode(session, [prompt], [counts[b] as number], { cache });
        expect(together.ids[b], `row ${b}`).toEqual(alone.ids[0]);
        expectClose(`row ${b}`, together.logits[b] as Float32Array[], alone.logits[0] as Float32Array[]);
        expect(together.ids[b]).toEqual((await greedyAnew(session, prompt, counts[b] as number)).ids);
      }
    });
  }

  it('may begin while others are under way, and beside one that is full', async () => {
    using session = await open('deepseek_v3');
    const [first, second, third] = [16, 7, 12].map((length) => randomIds(`late ${length}`, length, 101)) as [
      number[],
      number[],
      number[],
    ];
    using decoder = new CachedDecoder(session, { rows: 3, positions: 16 });
    expect(await decoder.feed([[], [], []])).toEqual([null, null, null]);
    const begun = await decoder.feed([first, second.slice(0, 2), []]);
    expect(begun[2]).toBeNull();
    const [full, grown, late] = await decoder.feed([[], second.slice(2), third]);
    expect(full).toBeNull();
    const anew = async (ids: number[]) => (await greedyAnew(session, ids, 1)).logits;
    expectClose('first', [begun[0] as Float32Array], await anew(first));
    expectClose('second', [grown as Float32Array], await anew(second));
    expectClose('third', [late as Float32Array], await anew(third));
    await expect(decoder.feed([[1], [], []])).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: '[decoder] expected at most 16 tokens, got 17 in row 0',
    });
    await expect(decoder.feed([[1]])).rejects.toMatchObject({ message: '[decoder] expected 3 rows, got 1' });
    // A refusal changes nothing.
    const [, again] = await decoder.feed([[], [5], []]);
    expectClose('second', [again as Float32Array], await anew([...second, 5]));
  });
});

it('few programs serve all lengths', async () => {
  using session = await open('deepseek_v2');
  const keys = new Set<string>();
  const program = session.program.bind(session);
  session.program = (key, ...rest) => {
    keys.add(key);
    return program(key, ...rest);
  };
  for (const length of [1, 3, 9, 15, 16, 17, 30]) {
    await decode(session, [randomIds(`few ${length}`, length, session.model.vocabSize)], [4], { positions: 50 });
  }
  // One token; 16 and 32 at the beginning; and what packs for them, which of them is first.
  expect([...keys].filter((key) => !key.startsWith('pack'))).toHaveLength(3);
  expect(keys.size).toBeLessThanOrEqual(3 + 5);
});

it('refuses a latent cache where there is none', async () => {
  using session = await open('gpt2');
  expect(() => new CachedDecoder(session, { positions: 8, cache: 'latent' })).toThrow(
    expect.objectContaining({ code: 'HADAL_ERR_CONFIG', message: expect.stringContaining("cache 'expanded'") }),
  );
});
