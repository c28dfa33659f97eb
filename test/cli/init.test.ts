// `hadal init` in folders of its own, with the compiled package linked as a dependency.
import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const compiler = join(root, 'node_modules', 'typescript');

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'hadal-init-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function link(target: string, path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(target, path);
}

/** The dependencies that `npm install` would bring. */
function installHadal(): void {
  link(root, join(dir, 'node_modules', 'hadal'));
  const main = join(dir, 'node_modules', 'hadal', 'dist', 'cli', 'main.js');
  const bin = join(dir, 'node_modules', '.bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'hadal'), `#!/bin/sh\nexec "${process.execPath}" "${main}" "$@"\n`, { mode: 0o755 });
  link(compiler, join(dir, 'node_modules', 'typescript'));
}

const env = { ...process.env, NO_COLOR: '1', HADAL_DEBUG: '0' };

function run(command: string, args: readonly string[], cwd = dir) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8', env });
  return { status, stdout, stderr };
}

const hadal = (...args: string[]) =>
  run(process.execPath, [
    join(existsSync(join(dir, 'node_modules')) ? join(dir, 'node_modules', 'hadal') : root, 'dist/cli/main.js'),
    ...args,
  ]);

const read = (name: string): string => readFileSync(join(dir, name), 'utf8');
const nextSteps = (stdout: string): string[] =>
  stdout
    .split(/^next {3}/m)[1]
    ?.trim()
    .split(/\n */) ?? [];

describe('hadal init', () => {
  it('writes a project that trains by the steps it prints', () => {
    installHadal();
    const { status, stdout, stderr } = hadal('init', '--name', 'tales');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(readdirSync(dir).sort()).toEqual(['.gitignore', 'data', 'hadal.config.ts', 'node_modules', 'package.json']);
    const steps = nextSteps(stdout);
    expect(steps).toEqual(['npm run train']);
    // The same run, shorter.
    writeFileSync(join(dir, 'hadal.config.ts'), read('hadal.config.ts').replace('steps: 100', 'steps: 3'));
    const trained = run('sh', ['-c', steps.join(' && ')]);
    expect(trained.stderr.replaceAll(/^npm warn.*\n/gm, '')).toBe('');
    expect(trained.stdout).toContain('config hadal.config.ts\n');
    expect(trained.stdout).toMatch(/^eval {3}step 3: held-out loss \d/m);
    expect(readdirSync(join(dir, 'runs', 'tales-1', 'checkpoints'))).toEqual(['step-00000003']);
    const resumed = run('npm', ['run', 'resume', '--', '--steps', '4']);
    expect(resumed.stdout).toContain('runs/tales-1, continues after step 3');
    expect(resumed.status).toBe(0);
  });

  it('names what is missing among the steps: the folder, hadal, a compiler for this Node', () => {
    const steps = nextSteps(hadal('init', 'new folder').stdout);
    expect(steps[0]).toBe("cd 'new folder'");
    expect(steps[1]).toBe(`npm install ${root.replace(/\/$/, '')}`);
    expect(steps.at(-1)).toBe('npm run train');
    expect(read('new folder/package.json')).toContain('"name": "new-folder"');
  });

  it('gives its configuration types', () => {
    installHadal();
    hadal('init');
    const text = read('hadal.config.ts');
    writeFileSync(join(dir, 'misspelt.ts'), text.replace('steps:', 'stepps:'));
    const made = (seed: string): string =>
      `import { defineConfig } from 'hadal';\nexport default defineConfig(({ presets }) => ({ ...presets.test(), seed: ${seed} }));\n`;
    writeFileSync(join(dir, 'made.ts'), made('7'));
    writeFileSync(join(dir, 'wrong.ts'), made("'x'"));
    const files = ['hadal.config.ts', 'made.ts', 'misspelt.ts', 'wrong.ts'];
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--skipLibCheck'];
    const errors = run(process.execPath, [join(compiler, 'bin', 'tsc'), ...options, ...files]).stdout.split(/\n(?! )/);
    expect(errors).toEqual([
      expect.stringMatching(/^misspelt\.ts\(12,3\): error TS.*'stepps' does not exist in type 'ConfigFile/),
      expect.stringMatching(/^wrong\.ts\(2,.*not assignable/),
      '',
    ]);
  });

  it.each(['yaml', 'json'] as const)('writes %s that is read', (format) => {
    hadal('init', '--format', format, '--preset', 'test');
    const { status, stderr } = hadal('train', '--steps', '2', '--threads', '1', '--set', 'data.heldOut=0.3');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(read(`hadal.config.${format}`)).toContain('node_modules/hadal/docs/config.schema.json');
  });

  it('takes data, as paths from the folder that is made', () => {
    const { stdout } = hadal(
      'init',
      'sub',
      '--data',
      'a.txt',
      '/b/*.md',
      'synthetic',
      'sub/c',
      `it's "odd"\\.txt`,
      '--json',
    );
    expect(JSON.parse(stdout)).toMatchObject({ dir: 'sub', files: ['hadal.config.ts', 'package.json', '.gitignore'] });
    expect(read('sub/hadal.config.ts')).toContain(
      String.raw`sources: ['../a.txt', '/b/*.md', 'synthetic', 'c', '../it\'s "odd"\\.txt']`,
    );
    expect(read('sub/hadal.config.ts')).toContain("preset: 'shallow'");
    expect(existsSync(join(dir, 'sub', 'data'))).toBe(false);
  });

  it('writes .mts where the package is not of ES modules, and node takes it', () => {
    installHadal();
    writeFileSync(join(dir, 'package.json'), '{ "type": "commonjs" }');
    hadal('init');
    expect(read('hadal.config.mts')).toContain('defineConfig');
    expect(hadal('train', '--steps', '1', '--threads', '1')).toMatchObject({ status: 0 });
  });
});

describe('what is there', () => {
  it('stays: package.json keeps its fields, scripts and form, .gitignore its lines', () => {
    installHadal();
    const manifest =
      '{\n\t"version": "1.2.3",\n\t"scripts": {\n\t\t"zoo": "x",\n\t\t"train": "node mine.js"\n\t},\n\t"type": "module"\n}';
    writeFileSync(join(dir, 'package.json'), manifest);
    writeFileSync(join(dir, '.gitignore'), '*.log\n/runs');
    const { stdout } = hadal('init');
    expect(read('package.json')).toBe(manifest.replace('mine.js"', 'mine.js",\n\t\t"resume": "hadal train --resume"'));
    expect(read('.gitignore')).toBe('*.log\n/runs\nnode_modules/\n.hadal/\n');
    expect(stdout).toContain('kept   scripts of package.json that were there: train');
    expect(nextSteps(stdout)).toEqual(['npx hadal train']);
  });

  it('is not overwritten without --force', () => {
    writeFileSync(join(dir, 'hadal.config.ts'), 'mine');
    const { status, stderr } = hadal('init');
    expect(stderr).toMatch(/^hadal: \[init\] expected \. without hadal\.config\.ts, .*--force overwrites/);
    expect(status).toBe(2);
    expect(readdirSync(dir)).toEqual(['hadal.config.ts']);
    expect(read('hadal.config.ts')).toBe('mine');
    expect(hadal('init', '--force').status).toBe(0);
    expect(read('hadal.config.ts')).toContain('defineConfig');
    // Twice is as once.
    const manifest = read('package.json');
    expect(hadal('init', '--force').status).toBe(0);
    expect(read('package.json')).toBe(manifest);
  });

  it.each<[string, () => void, string[], RegExp]>([
    [
      'another configuration',
      () => writeFileSync(join(dir, 'hadal.config.yaml'), ''),
      ['--force'],
      /without a configuration, got hadal\.config\.yaml/,
    ],
    [
      'a package.json that is none',
      () => writeFileSync(join(dir, 'package.json'), '{,}'),
      [],
      /expected valid JSON in package\.json/,
    ],
    [
      'a package.json that is a list',
      () => writeFileSync(join(dir, 'package.json'), '[]'),
      [],
      /expected package\.json to hold an object/,
    ],
    ['a name that leads elsewhere', () => {}, ['--name', '../up'], /--name of letters, .* got '\.\.\/up'/],
  ])('refuses %s, and writes nothing', (_, arrange, flags, message) => {
    arrange();
    const before = readdirSync(dir).map((name) => [name, read(name)]);
    const { status, stderr } = hadal('init', ...flags);
    expect(stderr).toMatch(message);
    expect(status).toBe(2);
    expect(readdirSync(dir).map((name) => [name, read(name)])).toEqual(before);
  });

  it('a file in the place of the folder is refused', () => {
    writeFileSync(join(dir, 'file'), 'x');
    const { status, stderr } = hadal('init', 'file');
    expect(stderr).toMatch(/ENOTDIR/);
    expect(status).toBe(2);
    expect(read('file')).toBe('x');
  });
});

describe('on a terminal', () => {
  const hasTerminal = spawnSync('script', ['--version']).error === undefined;

  /** Runs `hadal init` in a pseudo-terminal; for each question, keys. */
  async function answering(answers: readonly (readonly [question: string, keys: string])[]): Promise<number | null> {
    const command = `stty cols 100 rows 30; ${process.execPath} ${join(root, 'dist/cli/main.js')} init`;
    const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: dir, env: { ...env, TERM: 'xterm' } });
    let shown = '';
    const open = [...answers];
    child.stdout.on('data', (text) => {
      shown += text;
      const [next] = open;
      if (!next || !shown.includes(next[0])) return;
      open.shift();
      child.stdin.write(next[1]);
    });
    const status = await new Promise<number | null>((resolve) => child.on('exit', resolve));
    expect(open, shown).toEqual([]);
    return status;
  }

  it.skipIf(!hasTerminal)('asks, and takes the answers (skipped without `script`)', async () => {
    const down = '\x1b[B';
    const status = await answering([
      ['Text to train on', 'synthetic\r'],
      ['Run to start from', `${down}\r`],
      ['Configuration as', `${down}\r`],
      ['Name of the runs', 'answered\r'],
    ]);
    expect(status).toBe(0);
    const config = read('hadal.config.yaml');
    for (const line of ['preset: test', 'name: answered', '    - synthetic']) expect(config).toContain(line);
  });

  it.skipIf(!hasTerminal)('writes nothing when it is left (skipped without `script`)', async () => {
    expect(await answering([['Text to train on', '\x03']])).toBe(130);
    expect(readdirSync(dir)).toEqual([]);
  });
});
