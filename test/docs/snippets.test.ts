// The TypeScript of the pages is what a reader copies: it is checked and run, block by block, in an empty project.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { afterAll, describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../../', import.meta.url));
const folders: string[] = [];

function makeProject(): string {
  const folder = mkdtempSync(join(tmpdir(), 'hadal-docs-'));
  folders.push(folder);
  mkdirSync(join(folder, 'node_modules', '@types'), { recursive: true });
  symlinkSync(root, join(folder, 'node_modules', 'hadal'));
  symlinkSync(join(root, 'node_modules', '@types', 'node'), join(folder, 'node_modules', '@types', 'node'));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  return folder;
}

afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

/** Blocks marked `ts`, in order. */
function blocksOf(page: string): string[] {
  const text = readFileSync(join(root, page), 'utf8');
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code = '']) => code);
}

const options: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
  types: ['node'],
  strict: true,
};

/** Compiles the blocks; every error names page and block. */
function compiled(folder: string, blocks: readonly string[]): string[] {
  const files = blocks.map((code, i) => {
    const file = join(folder, `block-${i + 1}.ts`);
    writeFileSync(file, `${code}\nexport {};\n`);
    return file;
  });
  const program = ts.createProgram(files, { ...options, typeRoots: [join(folder, 'node_modules', '@types')] });
  program.emit();
  const problems = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
    return `${file?.fileName.replace(folder, '') ?? ''}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
  });
  expect(problems).toEqual([]);
  return files.map((file) => file.replace(/\.ts$/, '.js'));
}

describe.each(['README.md', 'README.zh-CN.md', 'docs/guide.md'])('%s', (page) => {
  const blocks = blocksOf(page);
  let scripts: string[] = [];
  const folder = makeProject();

  test('its TypeScript has no errors', () => {
    expect(blocks.length).toBeGreaterThan(0);
    scripts = compiled(folder, blocks);
  }, 180_000);

  test.each(
    blocks.map((code, i) => [i + 1, code.split('\n').find((line) => line !== '' && !line.startsWith('import'))]),
  )('block %i runs: %s', (number) => {
    const script = scripts[number - 1] as string;
    execFileSync(process.execPath, [script], { cwd: folder, encoding: 'utf8', timeout: 60_000 });
  });
});
