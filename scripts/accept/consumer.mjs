// hadal as a stranger meets it: packed, installed with npm into an empty TypeScript project, and used on Node 20, 22 and
// 24 inside a minimal Debian that has no compiler, none of the libraries that hadal bundles, and no network. Then on a
// system that is too old, without a binary for the platform, and built from the sources in the package.
//
//   npm run accept -- consumer [tarball]
//
// Outside of the minimal system it needs the npm registry; making that system needs root and debootstrap.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const checkout = fileURLToPath(new URL('../../', import.meta.url));
const versions = [20, 22, 24];
const folder = mkdtempSync(join(tmpdir(), 'hadal-consumer-'));
const root = join(folder, 'root');
const project = join(root, 'project');
const checkpoint = 'runs/cli/checkpoints/step-00000100';

/**
 * Runs a command; throws with the end of its output when its exit status is another than expected.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ status?: number; cwd?: string; env?: Record<string, string> }} options
 */
function run(command, args, { status: expected = 0, ...options } = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    timeout: 1_800_000,
    ...options,
  });
  const output = `${stdout ?? ''}${stderr ?? ''}`;
  if (error || status !== expected) {
    const end = output.trim().split('\n').slice(-12).join('\n');
    throw new Error(
      `${basename(command)} ${args.slice(-3).join(' ')}: status ${status} ${error?.message ?? ''}\n${end}`,
    );
  }
  return { stdout, output };
}

/** Runs a command in a minimal system: with a root, processes and a network of its own, and a bare environment. */
function inside(version, command, { status = 0, system = root } = {}) {
  const place = ['--net', '--mount', '--pid', '--fork', `--root=${system}`, '--mount-proc', '--wd=/project'];
  const env = { PATH: `/opt/node${version}:/project/node_modules/.bin:/usr/bin:/bin`, HOME: '/root' };
  return run('unshare', [...place, ...command], { status, env });
}

const lastLine = ({ stdout }) => stdout.trim().split('\n').at(-1) ?? '';
const expectText = (text, ...parts) => {
  for (const part of parts) if (!text.includes(part)) throw new Error(`expected '${part}' in:\n${text}`);
};

/** @type {{ check: string; on: string; result: string; detail: string }[]} */
const rows = [];
function check(name, on, action) {
  const row = { check: name, on, result: 'passed', detail: '' };
  try {
    row.detail = action() ?? '';
  } catch (error) {
    row.result = 'FAILED';
    row.detail = error.message;
  }
  rows.push(row);
  console.log(`${row.result.padEnd(7)} ${on.padEnd(9)} ${name}${row.detail ? `: ${row.detail}` : ''}`);
}

const hasUnshare = process.platform === 'linux' && spawnSync('unshare', ['--net', 'true']).status === 0;
const missing = [
  process.getuid?.() === 0 && hasUnshare ? '' : 'to be root and unshare',
  spawnSync('debootstrap', ['--version']).error ? 'debootstrap' : '',
].filter(Boolean);
function checkInside(name, on, action) {
  if (missing.length === 0) return check(name, on, action);
  rows.push({ check: name, on, result: 'skipped', detail: `needs ${missing.join(', ')}` });
  console.log(`skipped ${on.padEnd(9)} ${name}: needs ${missing.join(', ')}`);
}

function pack() {
  const given = process.argv[2];
  if (given !== undefined) return resolve(given);
  console.log(run(process.execPath, ['scripts/prebuild.mjs'], { cwd: checkout }).stdout.trim());
  const { stdout } = run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: checkout });
  return join(folder, JSON.parse(stdout)[0].filename);
}

/** Debian's smallest system, with the Node versions in /opt. */
function makeRoot(place, suite) {
  run('debootstrap', ['--variant=minbase', suite, place]);
  for (const version of versions) {
    const binary = join(folder, 'node', 'node_modules', `node${version}`, 'bin', 'node');
    cpSync(binary, join(place, 'opt', `node${version}`, 'node'));
  }
}

function fetchNodes() {
  mkdirSync(join(folder, 'node'));
  writeFileSync(join(folder, 'node', 'package.json'), '{ "private": true }');
  const packages = versions.map((version) => `node${version}@npm:node-linux-${process.arch}@${version}`);
  run('npm', ['install', '--no-audit', '--no-fund', ...packages], { cwd: join(folder, 'node') });
}

function makeProject(tarball) {
  mkdirSync(project, { recursive: true });
  cpSync(fileURLToPath(new URL('consumer/', import.meta.url)), join(project, 'src'), { recursive: true });
  writeFileSync(join(project, 'package.json'), '{ "name": "consumer", "private": true, "type": "module" }');
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    strict: true,
    types: ['node'],
    outDir: 'dist',
    rootDir: 'src',
  };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['src'] }));
  const lines = Array.from({ length: 2000 }, (_, i) => `The ${['cat', 'dog', 'bird'][i % 3]} sits on roof ${i % 7}.`);
  mkdirSync(join(project, 'texts'));
  writeFileSync(join(project, 'texts', 'lines.txt'), lines.join('\n'));
  writeFileSync(join(project, 'texts', 'rows.jsonl'), lines.map((text) => JSON.stringify({ text })).join('\n'));
  const { devDependencies, dependencies } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'));
  const development = ['typescript', '@types/node'].map((name) => `${name}@${devDependencies[name]}`);
  const install = (...args) => run('npm', ['install', '--no-audit', '--no-fund', ...args], { cwd: project });
  install(tarball, `piscina@${dependencies.piscina}`);
  install('--save-dev', ...development);
}

/** What a run with --json says of its held-out loss, which must have fallen. */
function lossOf({ stdout }) {
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const { evalLoss, initialEvalLoss } = events.findLast(({ type }) => type === 'end');
  if (!(evalLoss < initialEvalLoss - 1)) throw new Error(`held-out loss ${initialEvalLoss} to ${evalLoss}`);
  return `held-out loss ${initialEvalLoss.toFixed(2)} to ${evalLoss.toFixed(2)}`;
}

const strangers = /^(?:lib(?:dnnl|gomp|OpenCL)\b.*|(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|cmake|make|ld|as)(?:-\d+)?)$/;
function findStrangers() {
  const entries = readdirSync(root, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
  return paths.filter((file) => strangers.test(basename(file)) && !file.startsWith(project));
}

try {
  const tarball = pack();
  if (missing.length === 0) {
    fetchNodes();
    makeRoot(root, 'bookworm');
  }
  makeProject(tarball);
  const installed = join(project, 'node_modules', 'hadal');
  const hadal = join(installed, 'dist', 'cli', 'main.js');

  check('npm runs no script of hadal', 'install', () => {
    const lock = JSON.parse(readFileSync(join(project, 'package-lock.json'), 'utf8')).packages['node_modules/hadal'];
    if (lock.hasInstallScript || existsSync(join(installed, 'build'))) throw new Error('an install script ran');
    return `${Object.keys(lock.dependencies).length} dependencies`;
  });
  const tsc = join(project, 'node_modules', 'typescript', 'bin', 'tsc');
  const compile = (...options) => void run(process.execPath, [tsc, '-p', project, ...options]);
  check('types: nodenext', 'types', () => compile());
  check('types: bundler', 'types', () => compile('--noEmit', '--module', 'preserve', '--moduleResolution', 'bundler'));

  checkInside('no compiler, none of the bundled libraries', 'root', () => {
    const found = findStrangers();
    if (found.length > 0) throw new Error(`found ${found.join(', ')}`);
  });
  checkInside('no network', 'root', () => {
    const connect = `require('net').connect(53, '1.1.1.1').on('error', (e) => console.log(e.code)).on('connect', () => process.exit(1))`;
    return lastLine(inside(20, ['node', '-e', connect]));
  });

  for (const version of versions) {
    const on = `Node ${version}`;
    const node = (script, ...args) => lastLine(inside(version, ['node', `dist/${script}`, ...args]));
    checkInside('hadal doctor', on, () => {
      const { findings } = JSON.parse(inside(version, ['hadal', 'doctor', '--json']).stdout);
      const found = (name) => findings.find((finding) => finding.name === name);
      for (const name of ['native binary', 'oneDNN']) {
        if (found(name).status !== 'ok') throw new Error(JSON.stringify(found(name)));
      }
      return `${found('Node').found}; ${found('native binary').found.split('/').at(-1)}; ${found('oneDNN').found}`;
    });
    checkInside('hadal train --preset test', on, () => {
      rmSync(join(project, 'runs'), { recursive: true, force: true });
      return lossOf(inside(version, ['hadal', 'train', '--preset', 'test', '--out', 'runs/cli', '--json']));
    });
    checkInside('hadal generate', on, () => {
      const flags = ['--model', checkpoint, '--prompt', 'The cat', '--max-tokens', '20', '--temperature', '0'];
      return JSON.stringify(inside(version, ['hadal', 'generate', ...flags]).stdout.trim());
    });
    checkInside('on from a checkpoint with texts of its own', on, () => {
      const data = ['--model', checkpoint, '--data', 'texts', '--steps', '20', '--out', 'runs/own'];
      return lossOf(inside(version, ['hadal', 'train', '--preset', 'test', ...data, '--json']));
    });
    checkInside('hadal init, and the run that it describes', on, () => {
      rmSync(join(project, 'mine'), { recursive: true, force: true });
      inside(version, ['hadal', 'init', 'mine', '--yes']);
      return lossOf(inside(version, ['sh', '-c', 'cd mine && hadal train --json']));
    });
    checkInside('hadal inspect', on, () => {
      const { model, memory } = JSON.parse(inside(version, ['hadal', 'inspect', checkpoint, '--json']).stdout);
      return `${model.parameters} parameters, ${memory.total} bytes to train`;
    });
    checkInside('train, generate, forward, gradients, save from TypeScript', on, () =>
      node('train-and-use.js', 'runs/api'),
    );
    checkInside('bundled libraries are the ones in use', on, () => node('libraries.js', checkpoint));
    checkInside("CommonJS require('hadal')", on, () => node('required.cjs', checkpoint));
    checkInside('Piscina workers', on, () => node('pooled.js', checkpoint));
    checkInside('twice in one process', on, () => node('twice.js', 'runs/twice'));
  }

  checkInside('a system that is too old', 'Debian 11', () => {
    const old = join(folder, 'old');
    makeRoot(old, 'bullseye');
    cpSync(project, join(old, 'project'), { recursive: true, verbatimSymlinks: true });
    inside(20, ['hadal', 'inspect', 'deepseek-v3'], { system: old });
    const { output } = inside(20, ['hadal', 'train', '--preset', 'test', '--out', 'runs/x'], {
      system: old,
      status: 1,
    });
    expectText(output, 'version `GLIBC_2.3', 'use a newer system', 'here is glibc 2.31', 'npm run build:native');
    return 'inspect works, train says what is too old';
  });

  const prebuilds = join(installed, 'prebuilds');
  checkInside('no binary for the platform', 'Node 20', () => {
    renameSync(prebuilds, join(folder, 'prebuilds'));
    try {
      inside(20, ['hadal', 'inspect', 'deepseek-v3']);
      inside(20, ['node', '-e', "require('hadal').presets.test()"]);
      const { output } = inside(20, ['hadal', 'train', '--preset', 'test', '--out', 'runs/x'], { status: 1 });
      expectText(output, 'hadal/prebuilds: not there', 'npm explore hadal -- npm run build:native');
    } finally {
      renameSync(join(folder, 'prebuilds'), prebuilds);
    }
    return 'import and inspect work, train says how to build';
  });

  check('built from the package’s sources', `Node ${process.versions.node.split('.')[0]}`, () => {
    rmSync(prebuilds, { recursive: true });
    const build = ['explore', 'hadal', '--', 'npm', 'run', 'build:native'];
    expectText(
      run('npm', build, { cwd: project, status: 1 }).output,
      'npm install --no-save cmake-js@8 node-addon-api@8',
    );
    run('npm', ['install', '--no-save', 'cmake-js@8', 'node-addon-api@8'], { cwd: project });
    run('npm', build, { cwd: project });
    const { findings } = JSON.parse(run(process.execPath, [hadal, 'doctor', '--json'], { cwd: project }).stdout);
    const { found } = findings.find(({ name }) => name === 'native binary');
    expectText(found, 'node_modules/hadal/build/Release/hadal.node');
    run(process.execPath, [hadal, 'train', '--preset', 'test', '--steps', '5', '--out', 'runs/built'], {
      cwd: project,
    });
    return found.slice(found.indexOf('node_modules'));
  });

  /** @type {Record<string, Record<string, string>>} */
  const table = {};
  for (const { check: name, on, result } of rows) {
    if (on.startsWith('Node')) table[name] = { ...table[name], [on]: result };
  }
  console.table(table);
  console.log(`package: ${(readFileSync(tarball).length / 2 ** 20).toFixed(2)} MiB packed`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
const count = (result) => rows.filter((row) => row.result === result).length;
console.log(`${count('passed')} passed, ${count('FAILED')} failed, ${count('skipped')} skipped`);
if (count('FAILED') > 0) process.exitCode = 1;
