import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { learnMerges } from '../../src/data/learn-merges.js';

/** The definition, word for word: count all pairs anew before every merge. */
function learnSlowly(words: string[], counts: number[], maxMerges: number): [string, string][] {
  let split = words.map((word) => [...word]);
  const symbols = new Map(Array.from({ length: 256 }, (_, byte) => [String.fromCharCode(byte), byte]));
  const merges: [string, string][] = [];
  while (merges.length < maxMerges) {
    const pairs = new Map<string, { left: string; right: string; count: number }>();
    split.forEach((word, w) => {
      for (let i = 0; i + 1 < word.length; i++) {
        const [left, right] = [word[i] as string, word[i + 1] as string];
        const pair = pairs.get(`${left}\n${right}`) ?? { left, right, count: 0 };
        pair.count += counts[w] as number;
        pairs.set(`${left}\n${right}`, pair);
      }
    });
    const id = (text: string): number => symbols.get(text) as number;
    const [best] = [...pairs.values()].sort(
      (a, b) => b.count - a.count || id(a.left) - id(b.left) || id(a.right) - id(b.right),
    );
    if (best === undefined) break;
    const text = best.left + best.right;
    symbols.set(text, symbols.size);
    merges.push([best.left, best.right]);
    split = split.map((word) => {
      const joined: string[] = [];
      for (let i = 0; i < word.length; i++) {
        const together = word[i] === best.left && word[i + 1] === best.right;
        joined.push(together ? text : (word[i] as string));
        if (together) i++;
      }
      return joined;
    });
  }
  return merges;
}

describe('learnMerges', () => {
  it('learns what the definition says', () => {
    const word = fc
      .array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 9 })
      .map((chars) => chars.join(''));
    const corpus = fc.uniqueArray(fc.tuple(word, fc.integer({ min: 1, max: 4 })), {
      selector: ([text]) => text,
      maxLength: 10,
    });
    fc.assert(
      fc.property(corpus, fc.nat(34), (corpus, maxMerges) => {
        const words = corpus.map(([text]) => text);
        const counts = corpus.map(([, count]) => count);
        const texts = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte));
        const bytes = words.map((text) => new TextEncoder().encode(text));
        const merges = learnMerges(bytes, counts, maxMerges).map(([left, right]) => {
          texts.push(`${texts[left]}${texts[right]}`);
          return [texts[left], texts[right]];
        });
        expect(merges).toEqual(learnSlowly(words, counts, maxMerges));
        expect(new Set(texts).size).toBe(texts.length);
      }),
      { numRuns: 500 },
    );
  });
});
