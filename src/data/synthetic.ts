import { randomUint32 } from './shuffle.js';

const subjects = [
  'the cat',
  'a dog',
  'the old king',
  'my friend',
  'every child',
  'the river',
  'no one',
  'the small boat',
];
const verbs = ['sees', 'follows', 'finds', 'likes', 'forgets', 'carries', 'waits for', 'sings to'];
const objects = [
  'the moon',
  'a red house',
  'the quiet sea',
  'an apple',
  'the long road',
  'two birds',
  'the winter',
  'a song',
];
const endings = ['in the morning', 'at night', 'again and again', 'without a word', 'before the rain', 'by the fire'];

/**
 * Small stories from a fixed grammar, for tests and the `test` preset: easy to learn, and the same on every machine.
 *
 * @param documents - 400 unless given, about 100 KB together
 */
export function* syntheticTexts(documents = 400, seed = 1): Generator<{ text: string; id: string }> {
  const next = randomUint32(seed);
  const pick = (words: readonly string[]): string => words[next() % words.length] as string;
  for (let i = 0; i < documents; i++) {
    const sentences = Array.from({ length: 2 + (next() % 6) }, () => {
      const sentence = `${pick(subjects)} ${pick(verbs)} ${pick(objects)} ${pick(endings)}.`;
      return (sentence[0] as string).toUpperCase() + sentence.slice(1);
    });
    yield { text: sentences.join(' '), id: `synthetic#${i}` };
  }
}
