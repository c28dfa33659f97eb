// What npm publishes, and that it works away from the checkout. The whole of it is `npm run accept -- consumer`.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

const checkout = fileURLToPath(new URL('../../', import.meta.url));
const project = mkdtempSync(join(tmpdir(), 'hadal-package-'));
const modules = join(project, 'node_modules');
const installed = join(modules, 'hadal');
const main = join(installed, 'dist', 'cli', 'main.js');
const checkpoint = 'runs/cli/checkpoints/step-00000020';
const { HADAL_NATIVE: _, ...bare } = process.env;
/** The binary of the checkout, because a prebuilt one need not be there. */
const withBinary = { ...bare, HADAL_NATIVE: join(checkout, 'build', 'Release', 'hadal.node') };

function run(
  command: string,
  args: string[],
  { env = bare, cwd = project }: { env?: NodeJS.ProcessEnv; cwd?: string } = {},
) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 28 });
  return { status, stdout, stderr };
}

let files: string[] = [];

beforeAll(() => {
  const packed = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], { cwd: checkout });
  const [{ filename, files: entries }] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
  files = entries.map(({ path }) => path);
  mkdirSync(installed, { recursive: true });
  expect(run('tar', ['-xzf', filename, '-C', installed, '--strip-components=1']).status).toBe(0);
  rmSync(join(installed, 'prebuilds'), { recursive: true, force: true });
  const { dependencies } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  for (const name of [...Object.keys(dependencies), '@types/node']) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(checkout, 'node_modules', name), join(modules, name));
  }
  cpSync(join(checkout, 'scripts', 'accept', 'consumer'), join(project, 'src'), { recursive: true });
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    strict: true,
    types: ['node'],
    outDir: 'dist',
    rootDir: 'src',
  };
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['src'] }));
  const tsc = join(checkout, 'node_modules', 'typescript', 'bin', 'tsc');
  expect(run(process.execPath, [tsc, '-p', project])).toMatchObject({ status: 0, stdout: '' });
  const flags = ['--preset', 'test', '--steps', '20', '--threads', '2', '--out', 'runs/cli'];
  expect(run(process.execPath, [main, 'train', ...flags], { env: withBinary })).toMatchObject({ status: 0 });
}, 240_000);

afterAll(() => rmSync(project, { recursive: true, force: true }));

/** Everything that may be published. */
const published = [
  /^dist\/.+\.(?:js|d\.ts|d\.cts|json)$/,
  /^native\/.+\.(?:h|cpp|cu|cuh)$/,
  /^prebuilds\/linux-(?:x64|arm64)\/(?:hadal\.glibc\.node|hadal-gloo\.so|lib[\w-]+\.so\.[\d.]+|licenses\/[\w.-]+\.txt)$/,
  /^(?:CMakeLists\.txt|binding\.gyp|package\.json|scripts\/build-native\.mjs)$/,
  /^docs\/.+\.(?:md|json)$/,
  /^(?:CHANGELOG|README|README\.zh-CN)\.md$/,
  /^(?:LICENSE|NOTICE)(?:\.\w+)?$/,
];
const secrets =
  /-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:ghp_|npm_)[A-Za-z0-9]{36}|\bhf_[A-Za-z]{34}|\bAKIA[0-9A-Z]{16}\b/;

// Packing and compiling take their time on a busy machine.
vi.setConfig({ testTimeout: 120_000 });

describe('the published package', () => {
  it('holds nothing but what was compiled, what is compiled, and what is read', () => {
    expect(files.filter((file) => !published.some((pattern) => pattern.test(file)))).toEqual([]);
    expect(files.filter((file) => /(?:^|\/)(?:test|bench)\/|\.test\.|\.map$|\.stamp|tsbuildinfo/.test(file))).toEqual(
      [],
    );
    const needed = [
      'dist/index.js',
      'dist/index.d.ts',
      'dist/cli/main.js',
      'native/addon.cpp',
      'CMakeLists.txt',
      'LICENSE',
    ];
    expect(needed.filter((file) => !files.includes(file))).toEqual([]);
  });

  it('has no install script, and npm sees no reason to run node-gyp', () => {
    const { scripts, gypfile } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
    expect(gypfile).toBe(false);
    expect(['preinstall', 'install', 'postinstall', 'prepare'].filter((name) => name in scripts)).toEqual([]);
  });

  it('tells no secrets, and nothing of the machine that packed it', () => {
    const texts = readdirSync(installed, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const telling = texts.filter((entry) => {
      const text = readFileSync(join(entry.parentPath, entry.name), 'utf8');
      return secrets.test(text) || text.includes(checkout);
    });
    expect(telling.map(({ name }) => name)).toEqual([]);
  });

  it.each([
    ['trains, generates, computes and saves from TypeScript', 'train-and-use.js', 'runs/api'],
    ['is one module for require and import', 'required.cjs', checkpoint],
    ['works in Piscina workers', 'pooled.js', checkpoint],
    ['works twice in one process', 'twice.js', 'runs/twice'],
  ])('%s', (_, script, argument) => {
    const { status, stderr } = run(process.execPath, [join('dist', script), argument], { env: withBinary });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});

describe('where there is no binary for the platform', () => {
  it('import works and inspect counts', () => {
    const script = "import { presets } from 'hadal'; console.log(presets.test().steps)";
    expect(run(process.execPath, ['--input-type=module', '-e', script])).toMatchObject({ status: 0, stdout: '100\n' });
    const { status, stdout, stderr } = run(process.execPath, [main, 'inspect', 'deepseek-v3']);
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: expect.stringMatching(/^hadal: memory is not planned, since no native binary loads here/),
    });
    expect(stdout).toMatch(/^routed experts +/m);
  });

  it('training says what was tried and how to build', () => {
    const { status, stderr } = run(process.execPath, [main, 'train', '--preset', 'test', '--out', 'runs/none']);
    expect(status).toBe(1);
    expect(stderr).toContain(`${join(installed, 'build', 'Release', 'hadal.node')}: not there`);
    expect(stderr).toContain(`${join(installed, 'prebuilds')}: not there`);
    const build = 'npm install --no-save cmake-js@8 node-addon-api@8 && npm explore hadal -- npm run build:native';
    expect(stderr).toContain(`1. build it in your project: ${build} (needs cmake, make and g++`);
  });

  it('building without its tools says which to install', () => {
    const { status, stderr } = run(process.execPath, [join(installed, 'scripts', 'build-native.mjs')]);
    expect(status).toBe(1);
    expect(stderr).toBe(
      'build-native: cmake-js or node-addon-api is missing; run in your project: npm install --no-save cmake-js@8 node-addon-api@8\n',
    );
  });
});
