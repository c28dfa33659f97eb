import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopStrings } from '../../src/generate/stop-strings.js';

/** What comes out piece by piece, and at the end. */
function through(stops: string[], pieces: string[]) {
  const matcher = new StopStrings(stops);
  const out = pieces.map((piece) => matcher.push(piece));
  return { out, rest: matcher.flush(), isStopped: matcher.isStopped };
}

describe('stop strings', () => {
  it('hold back what may become one, across pieces', () => {
    expect(through(['\n\nUser:'], ['Yes.', '\n', '\nUs', 'er', ': no'])).toEqual({
      out: ['Yes.', '', '', '', ''],
      rest: '',
      isStopped: true,
    });
    expect(through(['\n\nUser:'], ['Yes.\n', '\nUs', 'ing'])).toEqual({
      out: ['Yes.', '', '\n\nUsing'],
      rest: '',
      isStopped: false,
    });
    expect(through(['\n\nUser:'], ['Yes.\n\nU'])).toEqual({ out: ['Yes.'], rest: '\n\nU', isStopped: false });
  });

  it('find one whose beginning repeats within it', () => {
    expect(through(['aab'], ['a', 'a', 'a', 'b', 'c']).out.join('')).toBe('a');
    expect(through(['abab'], ['ab', 'ac', 'abab']).out.join('')).toBe('abac');
  });

  it('end at the one that is complete first', () => {
    expect(through(['bcd', 'c'], ['abcd']).out).toEqual(['ab']);
    expect(through(['bc', 'c'], ['abcd']).out).toEqual(['a']);
  });

  it('leave characters of several units whole', () => {
    // Both begin with the same surrogate.
    expect(through(['😀'], ['x😁', '😀y'])).toEqual({ out: ['x😁', ''], rest: '', isStopped: true });
  });

  it('are found alike however the text is cut', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '语'), maxLength: 40 });
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', '语'), minLength: 1, maxLength: 5 }));
    fc.assert(
      fc.property(letters, stops, fc.array(fc.nat(40)), (text, given, cuts) => {
        const borders = [0, ...[...cuts].sort((a, b) => a - b), text.length];
        const pieces = borders.slice(1).map((end, i) => text.slice(borders[i], end));
        const ends = given.flatMap((stop) => (text.includes(stop) ? [text.indexOf(stop) + stop.length] : []));
        const end = Math.min(...ends);
        const longest = Math.max(0, ...given.filter((s) => text.slice(0, end).endsWith(s)).map((s) => s.length));
        const expected = ends.length > 0 ? text.slice(0, end - longest) : text;
        const { out, rest, isStopped } = through(given, pieces);
        expect(out.join('') + rest).toBe(expected);
        expect(isStopped).toBe(ends.length > 0);
      }),
      { seed: 2, numRuns: 2000 },
    );
  });

  it('refuse what no text can hold', () => {
    for (const stop of ['', '\ud83d', 3 as unknown as string]) {
      expect(() => new StopStrings([stop])).toThrow(expect.objectContaining({ code: 'HADAL_ERR_CONFIG' }));
    }
  });
});
