import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseJson } from '../../src/core/json.js';

const parse = (source: string | Uint8Array): unknown => parseJson(source, { part: 'test', what: 'x.json' });

describe('parseJson', () => {
  it('reads every JSON value as JSON.parse does', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(0, 1, 2), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(parse(text)).toEqual(JSON.parse(text));
        expect(parse(new TextEncoder().encode(text))).toEqual(JSON.parse(text));
      }),
    );
  });

  it('takes any text without anything but a value or a HadalError', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.array(fc.constantFrom(...'{}[]":,\\ a1'), { maxLength: 12 }).map((c) => c.join('')),
    );
    fc.assert(
      fc.property(texts, (text) => {
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          expect(() => parse(text)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }));
          return;
        }
        try {
          expect(parse(text)).toEqual(expected);
        } catch (error) {
          expect(error).toMatchObject({ message: expect.stringContaining('twice') });
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('refuses a key twice in one object, however written', () => {
    for (const text of ['{"a":1,"a":2}', '{"a":1,"\\u0061" : 2}', '[{"b":{"c":1 ,"d":[],"c":1}}]', '{"":1,"":2}']) {
      expect(() => parse(text)).toThrow(/twice/);
    }
    expect(parse('[{"a":1},{"a":{"a":"a"}},"a","a"]')).toEqual([{ a: 1 }, { a: { a: 'a' } }, 'a', 'a']);
  });

  it('keeps __proto__ a plain key', () => {
    expect(Object.keys(parse('{"__proto__":1}') as object)).toEqual(['__proto__']);
  });

  it('names place and code', () => {
    const options = { part: 'config', what: 'c.json', code: 'HADAL_ERR_CONFIG' } as const;
    const expected = { code: 'HADAL_ERR_CONFIG', message: expect.stringMatching(/^\[config\].*c\.json/) };
    expect(() => parseJson('{', options)).toThrow(expect.objectContaining(expected));
    expect(() => parseJson('['.repeat(1e6), options)).toThrow(/nesting/);
  });
});
