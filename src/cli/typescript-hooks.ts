// Module hooks for a Node that does not read TypeScript by itself. Runs in the thread of the module loader.
import { readFile } from 'node:fs/promises';
import * as nodeModule from 'node:module';
import { fileURLToPath } from 'node:url';

interface Stripper {
  stripTypeScriptTypes?: (source: string) => string;
}

interface Compiler {
  transpileModule: (source: string, options: { compilerOptions: object }) => { outputText: string };
  ModuleKind: { ESNext: number };
  ScriptTarget: { ES2022: number };
}

let strip: (source: string) => string;

/** @param compiler - path of the TypeScript package; null where Node can strip types */
export function initialize(compiler: string | null): void {
  if (compiler === null) {
    strip = (source) => (nodeModule as Stripper).stripTypeScriptTypes?.(source) ?? source;
    return;
  }
  strip = (source) => {
    const { transpileModule, ModuleKind, ScriptTarget } = nodeModule.createRequire(compiler)(compiler) as Compiler;
    return transpileModule(source, {
      compilerOptions: { module: ModuleKind.ESNext, target: ScriptTarget.ES2022, inlineSourceMap: true },
    }).outputText;
  };
}

type Load = (url: string, context: object) => Promise<{ format: string; source?: unknown; shortCircuit?: boolean }>;

/** Loads .ts and .mts without their types; the rest as it was loaded before. */
export async function load(url: string, context: object, nextLoad: Load): ReturnType<Load> {
  if (!/^file:.*\.m?ts$/.test(url)) return nextLoad(url, context);
  const source = await readFile(fileURLToPath(url), 'utf8');
  return { format: 'module', source: strip(source), shortCircuit: true };
}
