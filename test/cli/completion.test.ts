// Completions as the shells make them: each script runs in its shell.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { completionScript } from '../../src/cli/completion-scripts.js';
import { makeProgram } from '../../src/cli/program.js';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'hadal-completion-'));
  for (const shell of ['bash', 'zsh', 'fish'] as const) {
    writeFileSync(join(dir, shell), completionScript(shell, makeProgram()));
  }
  mkdirSync(join(dir, 'in', 'a folder'), { recursive: true });
  for (const name of ['run.yaml', "it's here.txt"]) writeFileSync(join(dir, 'in', name), '');
});
afterAll(() => rmSync(dir, { recursive: true }));

const has = (shell: string): boolean => spawnSync(shell, ['--version']).error === undefined;

function outputOf(shell: string, args: string[], input?: string): string {
  const { stdout, stderr, status } = spawnSync(shell, args, {
    cwd: join(dir, 'in'),
    encoding: 'utf8',
    ...(input === undefined ? {} : { input }),
    env: { ...process.env, HOME: dir, XDG_CONFIG_HOME: dir, TERM: 'dumb' },
  });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout;
}

const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');

/** What bash offers for words, the last of which the cursor is at. */
function inBash(words: string[]): string[] {
  const [list, last] = [words.map((word) => JSON.stringify(word)).join(' '), words.length - 1];
  return linesOf(
    outputOf('bash', [
      '--norc',
      '-c',
      `source ../bash; COMP_WORDS=(${list}); COMP_CWORD=${last}; _hadal; printf '%s\\n' "\${COMPREPLY[@]}"`,
    ]),
  );
}

/** What fish offers, without descriptions. */
function inFish(words: string[]): string[] {
  const line = words.join(' ');
  const text = outputOf('fish', ['--no-config', '-c', `source ../fish; complete -C ${JSON.stringify(line)}`]);
  return linesOf(text).map((row) => row.split('\t')[0] as string);
}

/** What zsh offers: a shell in a pseudo-terminal in which Tab is pressed, whose completions are written down. */
function inZsh(words: string[]): string[] {
  const script = `
zmodload zsh/zpty
rm -f ../offered
zpty shell zsh -f -i
zpty -w shell 'PS1=; autoload -Uz compinit; compinit -u -D; source ../zsh; zstyle ":completion:*" insert-tab false'
zpty -w shell 'compadd() { local a; builtin compadd -A found -O found "$@"; for a in $found; print -r -- "offered $a" >>../offered; builtin compadd "$@" }'
zpty -w shell 'tab() { zle complete-word; print over >>../offered }; zle -N tab; bindkey "^I" tab'
zpty -n -w shell ${JSON.stringify(words.join(' '))}$'\\t'
for i in {1..400}; do grep -qs over ../offered && break; sleep 0.05; done
zpty -d shell
cat ../offered
`;
  const [over, ...offered] = linesOf(outputOf('zsh', ['-f'], script)).reverse();
  expect(over).toBe('over');
  return [...new Set(offered.map((line) => line.replace(/^offered /, '')))];
}

const shells: [string, (words: string[]) => string[]][] = [
  ['bash', inBash],
  ['zsh', inZsh],
  ['fish', inFish],
];

describe.each(shells)('%s', (shell, offered) => {
  const test = it.skipIf(!has(shell));
  test(`commands, and those below them (skipped without ${shell})`, () => {
    expect(offered(['hadal', ''])).toEqual(expect.arrayContaining(['train', 'inspect', 'tokenizer', 'completion']));
    expect(offered(['hadal', 'tokenizer', ''])).toEqual(expect.arrayContaining(['train', 'encode', 'decode']));
    expect(offered(['hadal', 'tra'])).toEqual(['train']);
  });

  test('options of the command that the words name', () => {
    expect(offered(['hadal', 'train', '--pre'])).toEqual(['--preset']);
    expect(offered(['hadal', 'tokenizer', 'train', '--'])).toContain('--vocab-size');
    expect(offered(['hadal', 'tokenizer', 'encode', '--vo'])).toEqual([]);
  });

  test('names that a value must be one of', () => {
    expect(offered(['hadal', 'train', '--preset', ''])).toEqual(expect.arrayContaining(['shallow', 'test']));
    expect(offered(['hadal', 'train', '--json', '--preset', 'sh'])).toEqual(['shallow']);
    expect(offered(['hadal', 'completion', 'z'])).toEqual(['zsh']);
  });

  test('files and folders where such are meant, nothing where nobody knows', () => {
    const names = (words: string[]) => offered(words).map((name) => name.replace(/\/$/, '').replaceAll('\\', ''));
    expect(names(['hadal', 'train', '--config', 'r'])).toEqual(['run.yaml']);
    expect(names(['hadal', 'train', '--data', 'run.yaml', ''])).toEqual(
      expect.arrayContaining(['a folder', "it's here.txt"]),
    );
    expect(names(['hadal', 'train', '--out', ''])).toEqual(['a folder']);
    expect(names(['hadal', 'train', '--steps', ''])).toEqual([]);
  });
});

describe('bash', () => {
  it('takes --option=value, which it splits', () => {
    expect(inBash(['hadal', 'train', '--preset', '=', 'sh'])).toEqual(['shallow']);
    expect(inBash(['hadal', 'train', '--preset', '='])).toContain('test');
  });

  it('offers options again once a value has been given', () => {
    expect(inBash(['hadal', 'train', '--preset', 'test', '--st'])).toEqual(['--steps']);
    expect(inBash(['hadal', 'train', '--preset', 'test', 'sh'])).toEqual([]);
  });
});
