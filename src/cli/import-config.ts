// Configurations that are modules, TypeScript among them.
import * as nodeModule from 'node:module';
import { createRequire, register } from 'node:module';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { HadalError } from '../core/errors.js';
import { workerUrl } from '../core/worker-url.js';

/**
 * The configuration that a module exports as `default` or `config`. TypeScript is read by Node from 22.18 on; before,
 * by the TypeScript package of the project (5 or 6).
 *
 * @throws HadalError HADAL_ERR_CONFIG when the module cannot be loaded
 */
export async function importConfig(path: string): Promise<unknown> {
  const file = resolve(path);
  if (/^\.m?ts$/.test(extname(path))) readTypeScript(file);
  try {
    const module = (await import(pathToFileURL(file).href)) as { default?: unknown; config?: unknown };
    return module.default ?? module.config;
  } catch (error) {
    const [message = ''] = String((error as Error | null)?.message ?? error).split('\n');
    const hint = /outside a module|Unexpected token 'export'/.test(message)
      ? `; rename it to .m${extname(path).slice(-2)}, or say "type": "module" in package.json`
      : '';
    throw configError(`${path} to load`, `${message}${hint}`, error);
  }
}

let areHooksRegistered = false;

/** Makes sure that `import` takes TypeScript. */
function readTypeScript(file: string): void {
  if (readsTypeScript() || areHooksRegistered) return;
  const compiler = typeScriptFor(file);
  if (compiler === null && !stripsTypes) {
    throw configError(
      `TypeScript 5 or 6 beside ${file}, to read it with Node ${process.versions.node}`,
      'none; npm install -D typescript@6, or use Node 22.18 or newer, or a .mjs, .yaml or .json file',
    );
  }
  register(workerUrl(import.meta.url, './typescript-hooks.js'), { data: stripsTypes ? null : compiler });
  areHooksRegistered = true;
}

/** Whether a configuration in TypeScript, which is or would be at that path, can be read. */
export function canReadTypeScript(file: string): boolean {
  return readsTypeScript() || stripsTypes || typeScriptFor(file) !== null;
}

const readsTypeScript = (): boolean => Boolean((process.features as { typescript?: unknown }).typescript);

const stripsTypes = 'stripTypeScriptTypes' in nodeModule;

/** Path of the TypeScript package that a file would import, where it has a compiler API: from version 7 on it has none. */
function typeScriptFor(file: string): string | null {
  const require = createRequire(file);
  try {
    // The project's own package, not one of ours.
    const name = 'typescript';
    const { version } = require(`${name}/package.json`) as { version: string };
    return Number.parseInt(version, 10) < 7 ? require.resolve(name) : null;
  } catch {
    return null;
  }
}

function configError(expected: string, got: string, cause?: unknown): HadalError {
  return new HadalError('HADAL_ERR_CONFIG', `[config] expected ${expected}, got ${got}`, { cause });
}
