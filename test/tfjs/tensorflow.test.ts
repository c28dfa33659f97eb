// Finding and loading the packages. They stand in folders made here, and fail with the words that the real ones fail
// with; the real tfjs-node has tfjs-node.test.ts.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { loadTensorflow, tryTensorflow } from '../../src/tfjs/tensorflow.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'hadal-tfjs-'));
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

/** Installs a package whose main file has this code. */
function install(name: string, code: string): void {
  const dir = join(folder, 'node_modules', '@tensorflow', name);
  mkdirSync(dir, { recursive: true });
  writeFileSync(
    join(dir, 'package.json'),
    JSON.stringify({ name: `@tensorflow/${name}`, version: '4.22.0', main: 'main.js' }),
  );
  writeFileSync(join(dir, 'main.js'), code);
}

const fails = (message: string, code?: string) =>
  `throw Object.assign(new Error(${JSON.stringify(message)}), ${JSON.stringify({ code })})`;
const noBinding = (name: string) =>
  fails(
    `The Node.js native addon module (tfjs_binding.node) can not be found at path: /x/${name}/lib/napi-v8/tfjs_binding.node. \nPlease run command …`,
  );
const load = () => loadTensorflow<{ tensor: never; me: string }>({ from: folder });

describe('loadTensorflow', () => {
  it.each([
    { there: ['tfjs'], taken: 'tfjs' },
    { there: ['tfjs', 'tfjs-node'], taken: 'tfjs-node' },
    { there: ['tfjs', 'tfjs-node', 'tfjs-node-gpu'], taken: 'tfjs-node-gpu' },
  ])('takes the fastest of $there', async ({ there, taken }) => {
    const warn = vi.spyOn(process, 'emitWarning').mockReturnValue();
    for (const name of there) install(name, `exports.me = '${name}'`);
    expect((await load()).me).toBe(taken);
    expect(warn).not.toHaveBeenCalled();
  });

  it('goes on past one that is broken, and warns', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockReturnValue();
    install('tfjs-node-gpu', noBinding('tfjs-node-gpu'));
    install('tfjs', "exports.me = 'plain'");
    expect((await load()).me).toBe('plain');
    expect(warn).toHaveBeenCalledExactlyOnceWith(
      expect.stringMatching(
        /^\[tfjs\] @tensorflow\/tfjs-node-gpu has no native binding.*npm rebuild @tensorflow\/tfjs-node-gpu/,
      ),
      { code: 'HADAL_TFJS' },
    );
  });

  it('says what was looked for when there is none', async () => {
    await expect(load()).rejects.toMatchObject({
      name: 'HadalError',
      code: 'HADAL_ERR_NATIVE',
      message: [
        '[tfjs] expected a TensorFlow.js package, found none that loads:',
        '  @tensorflow/tfjs-node-gpu: is not installed',
        '  @tensorflow/tfjs-node: is not installed',
        '  @tensorflow/tfjs: is not installed',
        'install one with: npm install @tensorflow/tfjs-node-gpu (or @tensorflow/tfjs-node, or @tensorflow/tfjs)',
      ].join('\n'),
    });
  });

  it.each<[string, string, RegExp]>([
    [
      'a binding that was never built',
      noBinding('tfjs-node'),
      /install script.*npm rebuild @tensorflow\/tfjs-node --build-addon/,
    ],
    [
      'a missing libtensorflow',
      fails('libtensorflow.so.2: cannot open shared object file: No such file or directory', 'ERR_DLOPEN_FAILED'),
      /does not find libtensorflow.so.2; run: npm rebuild/,
    ],
    [
      'missing CUDA libraries',
      fails('libcudart.so.11.0: cannot open shared object file: No such file or directory', 'ERR_DLOPEN_FAILED'),
      /does not find libcudart.so.11.0; install the CUDA libraries/,
    ],
    [
      'a binding for another system',
      fails('/x/tfjs_binding.node: invalid ELF header', 'ERR_DLOPEN_FAILED'),
      /does not load \(.*invalid ELF header\).*npm rebuild/,
    ],
    [
      'a file that is missing',
      "require('./proto/api_pb')",
      /incomplete \(Cannot find module '.\/proto\/api_pb'\); install/,
    ],
    [
      "a function of Node's that is gone",
      "const util_1 = require('util'); (0, util_1.isGone)()",
      /isGone\) is not a function.*use Node 22/,
    ],
    ['something that is no error', "throw 'a text'", /does not load \(a text\)/],
    ['a mistake in its code', 'const x = ;', /does not load \(/],
  ])('explains %s', async (_, code, message) => {
    install('tfjs-node', code);
    const error: unknown = await load().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'HADAL_ERR_NATIVE', message: expect.stringMatching(message) });
    const { attempts } = tryTensorflow({ from: folder });
    expect(attempts.map(({ version }) => version)).toEqual([null, '4.22.0', null]);
  });
});

const compiled = new URL('../../dist/tfjs/entry.js', import.meta.url);

/** Runs a module in a process of its own. */
function run(code: string): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    encoding: 'utf8',
    cwd: folder,
  });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout;
}

describe('in a process of its own', () => {
  it('importing the entry loads no TensorFlow, and no native code', () => {
    install('tfjs-node', "console.log('loaded')");
    const out = run(`await import(${JSON.stringify(compiled.href)});
      console.log(process.report.getReport().sharedObjects.some((name) => name.endsWith('hadal.node')))`);
    expect(out).toBe('false\n');
  });

  it.each(['deleted', 'present'])('util.isNullOrUndefined is there for tfjs-node where it was %s', (was) => {
    install('tfjs-node', "const util = require('util'); exports.call = (x) => util.isNullOrUndefined(x)");
    const out = run(`import util from 'node:util';
      const before = util.isNullOrUndefined;
      if (${was === 'deleted'}) delete util.isNullOrUndefined;
      const { loadTensorflow } = await import(${JSON.stringify(compiled.href)});
      const { call } = await loadTensorflow();
      console.log(call(null), call(undefined), call(0), call(''), util.isNullOrUndefined === before)`);
    const had = Number.parseInt(process.versions.node, 10) < 23;
    expect(out).toBe(`true true false false ${was === 'present' && had}\n`);
  });
});

describe('doctor', () => {
  const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
  const finding = (): unknown => {
    const { stdout } = spawnSync(process.execPath, [main, 'doctor', '--json'], { encoding: 'utf8', cwd: folder });
    const { findings } = JSON.parse(stdout) as { findings: { name: string }[] };
    return findings.find(({ name }) => name === 'TensorFlow.js');
  };

  it.each<[string, [name: string, code: string][], object]>([
    [
      'what is there',
      [['tfjs-node', "console.log('hello')"]],
      { status: 'ok', found: '@tensorflow/tfjs-node 4.22.0', advice: null },
    ],
    [
      'that nothing is',
      [],
      { status: 'optional', found: 'not installed', advice: expect.stringContaining('npm install') },
    ],
    [
      'why it does not load',
      [['tfjs-node-gpu', noBinding('tfjs-node-gpu')]],
      {
        status: 'optional',
        found: 'does not load',
        advice: expect.stringMatching(/tfjs-node-gpu has no native binding/),
      },
    ],
    [
      'that it ends the process',
      [['tfjs', 'process.abort()']],
      { status: 'optional', found: expect.stringMatching(/ends/) },
    ],
  ])('says %s', (_, packages, expected) => {
    for (const [name, code] of packages) install(name, code);
    expect(finding()).toMatchObject(expected);
  });
});

it('the package names the entry', async () => {
  const { default: manifest } = await import('../../package.json', { with: { type: 'json' } });
  expect(manifest.exports['./tfjs'].default).toBe('./dist/tfjs/entry.js');
  expect(fileURLToPath(compiled)).toMatch(/dist\/tfjs\/entry\.js$/);
});
