import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { problemsOf } from '../../src/core/problems.js';

const schema = z.strictObject({
  sources: z.array(
    z.union(
      [
        z.string(),
        z.strictObject({
          path: z.string(),
          weight: z.number().positive().default(1),
          fields: z.array(z.string()).optional(),
        }),
      ],
      { error: 'a text or { path, weight }' },
    ),
  ),
  mode: z.enum(['fast', 'exact']).default('fast'),
  limits: z.record(z.string(), z.strictObject({ most: z.number() }).nullable()).prefault({}),
});

function textsOf(value: unknown): string[] {
  const { error } = schema.safeParse(value);
  return error ? problemsOf(schema, error, value).map(({ text }) => text) : [];
}

describe('problems of alternatives and lists', () => {
  it.each<[unknown, string[]]>([
    [{ pth: 'x' }, ["field 'sources.1.pth' is unknown; did you mean 'path'?"]],
    [{ path: 'x', wieght: 2 }, ["field 'sources.1.wieght' is unknown; did you mean 'weight'?"]],
    [{ path: 'x', weight: 0 }, ["field 'sources.1.weight' expected more than 0, got 0"]],
    [{ path: 'x', fields: ['a', 3] }, ["field 'sources.1.fields.1' expected a text, got 3"]],
    [{}, ["field 'sources.1.path' expected a text, got nothing"]],
    [7, ["field 'sources.1' expected a text or { path, weight }, got 7"]],
    [null, ["field 'sources.1' expected a text or { path, weight }, got null"]],
    [{ path: 'ok' }, []],
  ])('%j', (source, texts) => {
    expect(textsOf({ sources: ['a', source] })).toEqual(texts);
  });

  it('several in one list', () => {
    expect(textsOf({ sources: [{ pth: 'x' }, 'a', 5] })).toEqual([
      "field 'sources.0.pth' is unknown; did you mean 'path'?",
      "field 'sources.2' expected a text or { path, weight }, got 5",
    ]);
  });

  it('a name among a few', () => {
    expect(textsOf({ sources: [], mode: 'exat' })).toEqual([
      'field \'mode\' expected "fast" or "exact", got "exat"; did you mean \'exact\'?',
    ]);
    expect(textsOf({ sources: [], mode: 7 })).toEqual(['field \'mode\' expected "fast" or "exact", got 7']);
  });

  it('below names that are free', () => {
    expect(textsOf({ sources: [], limits: { a: { mots: 1 }, b: null } })).toEqual([
      "field 'limits.a.mots' is unknown; did you mean 'most'?",
    ]);
  });

  it('a key is one line, whatever is in it', () => {
    expect(textsOf({ sources: [], 'a\nb\u0000': 1 })).toEqual(["field 'a\\nb\\u0000' is unknown"]);
  });

  it('paths say where', () => {
    const value = { sources: [{ pth: 'x' }], limits: { a: { most: 'x' } } };
    const { error } = schema.safeParse(value);
    expect(problemsOf(schema, error as z.ZodError, value).map(({ path }) => path)).toEqual([
      ['sources', '0', 'pth'],
      ['limits', 'a', 'most'],
    ]);
  });
});
