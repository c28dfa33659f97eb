// Configurations that are modules, TypeScript among them.

import * as nodeModule from 'node:module';
import { createRequire, register } from 'node:module';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { HadalError } from '../core/errors.js';
import { workerUrl } from '../core/worker-url.js';

/**
 * The configuration that a module exports as `default` or `config`. TypeScript is read by Node from 22.18 on; before,
 * by the TypeScript package of the project.
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
  const { features } = process as { features: { typescript?: unknown } };
  if (features.typescript || areHooksRegistered) return;
  const compiler = 'stripTypeScriptTypes' in nodeModule ? null : findTypeScript(file);
  register(workerUrl(import.meta.url, './typescript-hooks.js'), { data: compiler });
  areHooksRegistered = true;
}

function findTypeScript(file: string): string {
  try {
    return createRequire(file).resolve('typescript');
  } catch (error) {
    throw configError(
      `TypeScript, to read ${file} with Node ${process.versions.node}`,
      'none; npm install -D typescript, or use Node 22.18 or newer, or a .mjs, .yaml or .json file',
      error,
    );
  }
}

function configError(expected: string, got: string, cause: unknown): HadalError {
  return new HadalError('HADAL_ERR_CONFIG', `[config] expected ${expected}, got ${got}`, { cause });
}
