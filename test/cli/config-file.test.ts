import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { readConfigFile } from '../../src/cli/config-file.js';
import { presets } from '../../src/cli/presets/presets.js';
import { HadalError } from '../../src/core/errors.js';
import { resolveTrainConfig } from '../../src/train/config.js';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'hadal-config-file-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

async function reading(name: string, text: string | Uint8Array): Promise<unknown> {
  writeFileSync(join(dir, name), text);
  return readConfigFile(join(dir, name));
}

/** The message of the refusal, without the folder. */
async function refusalOf(name: string, text: string | Uint8Array): Promise<string> {
  const error = await reading(name, text).then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(HadalError);
  expect(error).toMatchObject({ code: 'HADAL_ERR_CONFIG' });
  return (error as HadalError).message.replaceAll(`${dir}/`, '');
}

const whole = resolveTrainConfig({ ...presets.test(), out: 'runs/a' });

describe('readConfigFile', () => {
  it('finds fields behind anchors, in flow style, under quoted and numeric names', async () => {
    const text = [
      'optimizer: &o { lr: 1, "lrr": 2 }',
      'loss: *o',
      'data: {sources: [a, {path: b, weight: [1]}]}',
      '17: x',
    ].join('\n');
    const lines = (await refusalOf('a.yaml', text)).split('\n');
    expect(lines.map((line) => /^\[(.*?)\] field '(.*?)'/.exec(line)?.slice(1))).toEqual([
      ['a.yaml:1:24', 'optimizer.lrr'],
      ['a.yaml:1:17', 'loss.lr'],
      ['a.yaml:1:24', 'loss.lrr'],
      ['a.yaml:4:1', '17'],
      ['a.yaml:3:31', 'data.sources.1.weight'],
    ]);
  });

  it.each<[string, string, RegExp]>([
    ['brackets', '['.repeat(20_000), /more than 64 levels of nesting/],
    ['maps', '{a: '.repeat(5_000), /more than 64 levels of nesting/],
    ['dashes', '- '.repeat(10_000), /more than 64 levels of nesting/],
    ['question marks', '? '.repeat(10_000), /more than 64 levels of nesting/],
    [
      'aliases of aliases',
      Array.from({ length: 40 }, (_, i) => `a${i}: &a${i} ${i ? `[*a${i - 1}, *a${i - 1} ]` : 1}`).join('\n'),
      /resource exhaustion/,
    ],
    ['a large file', `# ${'x'.repeat(40_000)}`, /at most 32768 characters in a\.yaml, got 40002/],
    ['many unknown names', Array.from({ length: 2000 }, (_, i) => `key${i}: 1`).join('\n'), /… and 1995 more$/],
    ['a long list', `[${'a, '.repeat(5_000)}]`, /^\[a\.yaml\] expected object, got \[.*…$/],
  ])('is not hung by %s', async (_, text, message) => {
    const start = performance.now();
    expect(await refusalOf('a.yaml', text)).toMatch(message);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('JSON nested deeply is refused', async () => {
    expect(await refusalOf('a.json', `{"model":${'['.repeat(10_000)}`)).toMatch(/more than 128 levels/);
  });

  it.each([
    ['yaml', stringify(whole)],
    ['json', JSON.stringify(whole, null, 1)],
  ])('takes or refuses %s whose text was changed at random', async (ending, text) => {
    const piece = fc.oneof(
      fc.constantFrom(
        '[',
        ']',
        '{',
        '}',
        ':',
        '- ',
        '? ',
        '&a ',
        '*a',
        '!!int ',
        '!x ',
        '|',
        '>',
        '"',
        "'",
        '#',
        '\t',
        '\n',
        '---\n',
        '%YAML 1.1\n',
        '<<: ',
        '\u0000',
        '\u2028',
        '\ud800',
      ),
      fc.string({ unit: 'binary', maxLength: 4 }),
    );
    const change = fc.record({ at: fc.nat(text.length), removed: fc.nat(6), piece });
    const seen = { taken: 0, refused: 0 };
    const property = fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
      const changed = changes.reduce(
        (now, { at, removed, piece }) => now.slice(0, at) + piece + now.slice(at + removed),
        text,
      );
      const error = await reading(`random.${ending}`, changed).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      seen[error ? 'refused' : 'taken']++;
      if (error) {
        expect(error).toBeInstanceOf(HadalError);
        expect((error as HadalError).message).toMatch(/^\[.*\] [^\n]+(\n\[.*\] [^\n]+){0,4}(\n… and \d+ more)?$/);
      }
    });
    await fc.assert(property, { numRuns: 1000, seed: 1 });
    expect(Math.min(seen.taken, seen.refused)).toBeGreaterThan(30);
  });
});

describe('docs/configuration.md', () => {
  const page = readFileSync(new URL('../../docs/configuration.md', import.meta.url), 'utf8');
  const blocks = [...page.matchAll(/^```(yaml|json|ts)\n(.*?)^```/gms)].map(([, ending = '', text = '']) => ({
    ending,
    text,
  }));

  it.each(blocks)('the $ending that it shows is taken', async ({ ending, text }) => {
    // TypeScript is read by a child process in init.test.ts; here its types are no matter.
    const code = text.replace("import { defineConfig } from 'hadal';", 'const defineConfig = (config) => config;');
    const config = await reading(ending === 'ts' ? 'shown.mjs' : `shown.${ending}`, code);
    expect(config).toMatchObject({ preset: 'shallow', steps: 1000 });
  });

  it('shows one of each kind', () => {
    expect(blocks.map(({ ending }) => ending)).toEqual(['ts', 'yaml', 'json']);
  });
});
