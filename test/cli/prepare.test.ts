// `hadal prepare` and data from outside the repository, as a user meets them.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const dir = mkdtempSync(join(tmpdir(), 'hadal-cli-prepare-'));
afterAll(() => rmSync(dir, { recursive: true }));

function run(program: string, cwd: string, args: string[]) {
  const env = { ...process.env, NO_COLOR: '1', HADAL_DEBUG: '0' };
  return spawnSync(process.execPath, [program, ...args], { cwd, encoding: 'utf8', env });
}
const hadal = (...args: string[]) => run(main, dir, args);
const tokenizer = ['--tokenizer', 'tokenizer'];

beforeAll(() => {
  mkdirSync(join(dir, 'texts/deep'), { recursive: true });
  writeFileSync(join(dir, 'texts/one.md'), '# One\n\nA first text.');
  writeFileSync(join(dir, 'texts/deep/two.csv.gz'), gzipSync('id,body\n1,"A second, quoted"\n2,A third <|pad|>\n'));
  expect(hadal('tokenizer', 'train', '--data', 'synthetic', '--vocab-size', '300', '--out', 'tokenizer').status).toBe(
    0,
  );
});

describe('hadal prepare', () => {
  it('makes shards that train takes as they are', () => {
    const sources = ['--data', 'texts/**', 'synthetic', '--data-weight', '1', '2', '--text-field', 'body'];
    const made = hadal('prepare', ...sources, ...tokenizer, '--out', 'prepared', '--json');
    expect(made.stderr).toMatch(/^403 documents, [\d,]+ tokens\n$/);
    expect(JSON.parse(made.stdout)).toMatchObject({
      out: 'prepared',
      reused: false,
      train: { documents: 382 },
      heldOut: { documents: 21 },
      sources: [
        { path: 'texts/**', weight: 1, train: 2, heldOut: 1 },
        { path: 'synthetic', weight: 2, train: 380, heldOut: 20 },
      ],
    });
    const again = hadal('prepare', ...sources, ...tokenizer, '--out', 'prepared');
    expect(again.stdout).toMatch(
      /^prepared: [\d,]+ tokens of 382 documents, .*\(made earlier\)\nnext {3}.* train --data prepared\n/,
    );

    const args = ['train', '--preset', 'test', '--steps', '2', '--threads', '1', '--json'];
    const trained = hadal(...args, '--data', 'prepared', '--out', 'runs/a');
    expect(trained.status).toBe(0);
    const events = trained.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.some(({ type, phase }) => type === 'prepare' && phase !== 'program')).toBe(false);
    const start = events.find(({ type }) => type === 'start');
    expect(start.trainTokens).toBe(JSON.parse(made.stdout).train.tokens);
    const model = readdirSync(join(dir, 'runs/a/checkpoints'))[0] as string;
    const kept = readFileSync(join(dir, 'runs/a/checkpoints', model, 'tokenizer.json'), 'utf8');
    expect(kept).toBe(readFileSync(join(dir, 'tokenizer/tokenizer.json'), 'utf8'));

    const mixed = hadal(...args, '--data', 'prepared', 'texts', '--out', 'runs/b');
    expect(mixed.stderr).toMatch(/prepared data to be the only source, got prepared among others/);
    expect(mixed.status).toBe(3);
    writeFileSync(join(dir, 'other.json'), kept.replace('"<|pad|>"', '"<|pat|>"'));
    const other = hadal(...args, '--data', 'prepared', '--set', 'data.tokenizer=other.json', '--out', 'runs/b');
    expect(other.stderr).toMatch(/expected the tokenizer that prepared was prepared with/);
    expect(other.status).toBe(2);
  });

  it('shows packed rows with borders and what is no target', () => {
    const sources = ['--data', 'texts/**', '--text-field', 'body', ...tokenizer, '--seq-len', '90', '--show'];
    const { stdout, status } = hadal('prepare', ...sources, '1');
    expect(status).toBe(0);
    expect(stdout).toContain('<|begin_of_sentence|>A second, quoted⟦<|end_of_sentence|>⟧\n── positions');
    expect(stdout).toContain('<|begin_of_sentence|>A third <|pad|>⟦<|end_of_sentence|>⟧');
    expect(stdout).toMatch(/^row 0: 90 positions, \d+ targets, \d+ padding, 3 documents$/m);
    const rows = hadal('prepare', ...sources, '--json')
      .stdout.trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(rows.length).toBe(1);
    for (const { documents, targets, padding, seqLen } of rows) {
      const labels = documents.flatMap(({ labels }: { labels: number[] }) => labels);
      expect(labels.filter((label: number) => label !== -100).length).toBe(targets);
      expect(labels.length + padding).toBe(seqLen);
      for (const { ids, labels } of documents) expect([...labels]).toEqual([...ids.slice(1), -100]);
    }
    expect(hadal('prepare', '--data', 'prepared', '--show', '3', '--json').stdout.trim().split('\n').length).toBe(3);
  });

  it.each([
    [['--out', 'x', ...tokenizer], /expected --data, got none/, 2],
    [['--data', 'texts', '--out', 'x'], /expected --tokenizer, got none; learn one with: .* tokenizer train/, 2],
    [['--data', 'texts', ...tokenizer], /expected --out, got none/, 2],
    [
      ['--data', 'texts', 'synthetic', '--data-weight', '1', '--out', 'x', ...tokenizer],
      /--data-weight for each of 2/,
      2,
    ],
    [['--data', 'texts', '--data-weight', '0', '--out', 'x', ...tokenizer], /Expected a number above 0/, 2],
    [['--data', 'texts/*.parquet', '--out', 'x', ...tokenizer], /files that match 'texts\/\*\.parquet', got none/, 2],
    [['--data', 'texts', '--out', 'x', ...tokenizer], /a column 'text' in the first row of .*, got id, body/, 3],
    [['--data', 'synthetic', '--out', 'texts', ...tokenizer], /texts to be new or empty, got 'deep' in it/, 2],
    [['--data', 'texts', '--show'], /expected a tokenizer/, 2],
  ])('refuses %j', (args, message, status) => {
    const refused = hadal('prepare', ...args);
    expect(refused.stderr).toMatch(message);
    expect(refused.stderr.trim().split('\n').length).toBe(1);
    expect(refused.status).toBe(status);
  });
});

describe('a package installed elsewhere', () => {
  it('says how to give data where there is none, and makes nothing', () => {
    const home = join(dir, 'elsewhere');
    const installed = join(home, 'node_modules/hadal');
    mkdirSync(installed, { recursive: true });
    cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true });
    cpSync(join(root, 'package.json'), join(installed, 'package.json'));
    const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: object };
    for (const name of Object.keys(dependencies)) {
      mkdirSync(join(home, 'node_modules', name, '..'), { recursive: true });
      symlinkSync(join(root, 'node_modules', name), join(home, 'node_modules', name));
    }
    const { status, stderr } = run(join(installed, 'dist/cli/main.js'), home, ['train']);
    expect(stderr).toMatch(/expected text to train on, got 'sotu' without its npm package; give your own with --data/);
    expect(stderr.trim().split('\n').length).toBe(1);
    expect(status).toBe(2);
    expect(readdirSync(home)).toEqual(['node_modules']);
  });
});
