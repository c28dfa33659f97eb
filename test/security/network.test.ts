// No command is about the network yet: none may use it.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { workerUrl } from '../../src/core/worker-url.js';

const main = fileURLToPath(workerUrl(import.meta.url, '../../src/cli/main.js'));
const hook = new URL('./no-network-hook.mjs', import.meta.url).href;
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'hadal-network-'));
  writeFileSync(join(folder, 'notes.txt'), 'The cat sat on the mat.\n\nThe mat was flat.\n'.repeat(200));
});
afterAll(() => rmSync(folder, { recursive: true }));

const run = (command: string, args: readonly string[]) =>
  spawnSync(command, args, { cwd: folder, encoding: 'utf8', input: '', timeout: 60_000 });
const node = (...args: string[]) => [process.execPath, '--import', hook, ...args];
const checkpoint = () => join('run', 'checkpoints', readdirSync(join(folder, 'run', 'checkpoints'))[0] as string);

// In this order: the later ones use what the first ones make.
const commands: [string, (times: string) => string[]][] = [
  [
    'tokenizer train',
    (n) => ['tokenizer', 'train', '--data', 'notes.txt', '--vocab-size', '280', '--out', `tokenizer${n}`],
  ],
  ['train', () => ['train', '--preset', 'test', '--steps', '2', '--out', 'run']],
  ['generate', () => ['generate', '--model', checkpoint(), '--prompt', 'The', '--max-tokens', '3']],
  ['inspect', () => ['inspect', 'deepseek-v3', '--no-plan']],
  ['doctor', () => ['doctor']],
];

describe('with a network that only reports who asks for it', () => {
  test('the hook reports', () => {
    const [command = '', ...args] = node('-e', "fetch('http://127.0.0.1:9')");
    expect(run(command, args).stderr).toContain('network: fetch');
  });

  test.each(commands)('hadal %s does not ask', (_name, args) => {
    const [command = '', ...rest] = node(main, ...args('1'));
    const { status, stderr } = run(command, rest);
    expect(stderr).not.toContain('network:');
    expect(status, stderr).toBe(0);
  });
});

const mayUnshare = spawnSync('unshare', ['-rn', 'true']).status === 0;

describe.skipIf(!mayUnshare)(
  'in a network namespace with nothing in it (skipped where `unshare -rn` is not allowed)',
  () => {
    test('nothing can be reached', () => {
      const { status } = run('unshare', ['-rn', process.execPath, '-e', "require('net').connect(9, '127.0.0.1')"]);
      expect(status).not.toBe(0);
    });

    test.each(commands)('hadal %s works', (_name, args) => {
      const { status, stderr } = run('unshare', [
        '-rn',
        process.execPath,
        main,
        ...args('2'),
        ...(args('2')[0] === 'train' ? ['--resume'] : []),
      ]);
      expect(status, stderr).toBe(0);
    });
  },
);
