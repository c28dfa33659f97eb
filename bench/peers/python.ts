// A Python that has PyTorch: the user's own (HADAL_PYTHON), or a virtual environment that is made once.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const requirements = ['torch==2.13.0', 'transformers>=5.18', 'numpy'];
const environment = fileURLToPath(new URL('../../.hadal/peers-python', import.meta.url));

const report = `
import json, sys
assert sys.version_info >= (3, 10), 'Python 3.10 or newer is needed'
import numpy, torch, transformers
print(json.dumps({'python': sys.version.split()[0], 'torch': torch.__version__, 'transformers': transformers.__version__}))
`;

/** Versions of what is compared with. */
export interface PythonVersions {
  python: string;
  torch: string;
  transformers: string;
}

/** @throws Error saying what to do where there is no Python that fits */
export function findPython(say: (line: string) => void): { path: string; versions: PythonVersions } {
  const own = process.env.HADAL_PYTHON;
  const path = own ?? join(environment, 'bin', 'python');
  if (own === undefined && !existsSync(join(environment, 'pyvenv.cfg'))) makeEnvironment(say);
  let found = ask(path);
  if (own === undefined && found.versions === null) {
    say(`installing ${requirements.join(', ')} into ${environment}`);
    run(path, ['-m', 'pip', 'install', '--quiet', ...requirements]);
    found = ask(path);
  }
  if (found.versions === null) {
    throw new Error(`expected a Python with ${requirements.join(', ')} at ${path}, got: ${found.problem}`);
  }
  return { path, versions: found.versions };
}

function ask(path: string): { versions: PythonVersions | null; problem: string } {
  const { status, stdout, stderr, error } = spawnSync(path, ['-c', report], { encoding: 'utf8' });
  if (status === 0) return { versions: JSON.parse(stdout) as PythonVersions, problem: '' };
  return { versions: null, problem: error?.message ?? (stderr.trim().split('\n').at(-1) as string) };
}

function makeEnvironment(say: (line: string) => void): void {
  const old = 'import sys; sys.exit(sys.version_info < (3, 10))';
  const base = ['python3', 'python'].find((name) => spawnSync(name, ['-c', old]).status === 0);
  if (base === undefined) {
    throw new Error(
      'expected Python 3.10 or newer as python3, found none; install it, or set HADAL_PYTHON to one with PyTorch',
    );
  }
  say(`making a virtual environment in ${environment}`);
  run(base, ['-m', 'venv', environment]);
}

function run(command: string, args: readonly string[]): void {
  const { status, error } = spawnSync(command, args, { stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ''}`);
}
