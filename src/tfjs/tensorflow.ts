// TensorFlow.js as far as the bridge uses it, and how it is found. The types are structural: hadal compiles, and is
// used, without any package of TensorFlow's.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HadalError } from '../core/errors.js';

/** Number formats that both sides know. */
export type TfDType = 'float32' | 'int32' | 'bool';

/** A `tf.Tensor` of any backend. */
export interface TfTensor {
  readonly shape: readonly number[];
  /** A {@link TfDType}; 'string' and 'complex64' are refused. */
  readonly dtype: string;
  readonly isDisposed?: boolean;
  data(): Promise<unknown>;
  dispose(): void;
}

/** The module of a TensorFlow.js package: `@tensorflow/tfjs-node-gpu`, `tfjs-node`, `tfjs` or `tfjs-core` with a backend. */
export interface Tensorflow<T extends TfTensor = TfTensor> {
  tensor(values: Float32Array | Int32Array | Uint8Array, shape: number[], dtype: TfDType): T;
}

/** Packages that are looked for, fastest first. */
const packageNames = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node', '@tensorflow/tfjs'] as const;

/** Options of {@link loadTensorflow}. */
export interface LoadTensorflowOptions {
  /** Folder whose `node_modules`, and those above it, are searched before hadal's own; the working directory unless given. */
  from?: string;
}

/** What became of one package. */
export interface TensorflowAttempt {
  name: string;
  /** Null when it is not installed. */
  version: string | null;
  /** Null when it loads; else one sentence on what is wrong and what to do. */
  problem: string | null;
}

/**
 * Loads the first of `@tensorflow/tfjs-node-gpu`, `@tensorflow/tfjs-node` and `@tensorflow/tfjs` that is installed and
 * works. One that is installed but does not load is named in a process warning (`HADAL_TFJS`).
 *
 * `loadTensorflow<typeof import('@tensorflow/tfjs-node')>()` gives the module its full type.
 *
 * On Node 23 and later, whose `util` has lost the function `isNullOrUndefined` that tfjs-node calls, the function is put
 * back.
 *
 * @throws HadalError HADAL_ERR_NATIVE naming every package, why it does not load and what to do
 */
export async function loadTensorflow<M extends Tensorflow<TfTensor> = Tensorflow>(
  options: LoadTensorflowOptions = {},
): Promise<M> {
  const { module, attempts } = tryTensorflow(options);
  if (module) {
    for (const { name, problem } of attempts) {
      if (problem && problem !== notInstalled) {
        process.emitWarning(`[tfjs] ${name} ${problem}`, { code: 'HADAL_TFJS' });
      }
    }
    return module as M;
  }
  const tried = attempts.map(({ name, problem }) => `  ${name}: ${problem}`).join('\n');
  throw new HadalError(
    'HADAL_ERR_NATIVE',
    `[tfjs] expected a TensorFlow.js package, found none that loads:\n${tried}\ninstall one with: npm install @tensorflow/tfjs-node-gpu (or @tensorflow/tfjs-node, or @tensorflow/tfjs)`,
  );
}

/** Tries the packages in turn, up to the first that loads. Never throws. */
export function tryTensorflow({ from = process.cwd() }: LoadTensorflowOptions = {}): {
  module: Tensorflow | null;
  attempts: TensorflowAttempt[];
} {
  const attempts: TensorflowAttempt[] = [];
  const require = createRequire(import.meta.url);
  const paths = [from, dirname(fileURLToPath(import.meta.url))];
  for (const name of packageNames) {
    let version: string | null = null;
    try {
      const manifest = resolved(require, `${name}/package.json`, paths);
      if (manifest === null) {
        attempts.push({ name, version, problem: notInstalled });
        continue;
      }
      version = (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
      if (name !== '@tensorflow/tfjs') restoreIsNullOrUndefined(require);
      const module = require(dirname(manifest)) as Tensorflow;
      return { module, attempts: [...attempts, { name, version, problem: null }] };
    } catch (error) {
      attempts.push({ name, version, problem: explain(name, error) });
    }
  }
  return { module: null, attempts };
}

const notInstalled = 'is not installed';

function resolved(require: NodeJS.Require, file: string, paths: string[]): string | null {
  try {
    return require.resolve(file, { paths });
  } catch {
    return null;
  }
}

/** tfjs-node 4.22 calls `util.isNullOrUndefined` in many of its ops; Node 23 took it away. */
function restoreIsNullOrUndefined(require: NodeJS.Require): void {
  const util = require('node:util') as Record<string, unknown>;
  if (typeof util.isNullOrUndefined === 'function') return;
  const value = (x: unknown): boolean => x === null || x === undefined;
  Object.defineProperty(util, 'isNullOrUndefined', { value, configurable: true, writable: true });
}

/** Why an installed package does not load, and the cure. */
function explain(name: string, error: unknown): string {
  const { message, code }: NodeJS.ErrnoException = error instanceof Error ? error : new Error(String(error));
  const line = message.split('\n')[0]?.trim() ?? '';
  const rebuild = `npm rebuild ${name} --build-addon-from-source`;
  if (/tfjs_binding\.node\) can ?not be found/.test(message)) {
    return `has no native binding: its install script did not run, or failed; allow install scripts and run: ${rebuild}`;
  }
  const library = /\b(lib[\w.+-]+\.so[\w.]*): cannot open shared object file/.exec(message)?.[1];
  if (library) {
    const isTensorflow = library.startsWith('libtensorflow');
    const cure = isTensorflow ? `run: ${rebuild}` : 'install the CUDA libraries it was built for, or take tfjs-node';
    return `does not find ${library}; ${cure}`;
  }
  if (code === 'ERR_DLOPEN_FAILED') {
    return `has a native binding that does not load (${line}); for this Node and system, run: ${rebuild}`;
  }
  if (/\butil\w*\.is\w+\b.* is not a function/.test(message)) {
    return `calls a function that Node 23 took out of util (${line}); use Node 22, or put it back before loading, as in: require('util').isNullOrUndefined = (v) => v == null`;
  }
  if (code === 'MODULE_NOT_FOUND') return `is incomplete (${line}); install it again`;
  return `does not load (${line})`;
}
