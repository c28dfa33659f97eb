// Runs PTX by the interpreter alone, build/Release/hadal-ptx.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

export const interpreter = fileURLToPath(new URL('../../build/Release/hadal-ptx', import.meta.url));

/** Why tests are skipped: it is built with the simulated GPU. */
export const missing = existsSync(interpreter) ? '' : ' (skipped: hadal-ptx is not built)';

export const folder = mkdtempSync(path.join(tmpdir(), 'hadal-ptx-'));
afterAll(() => rmSync(folder, { recursive: true }));

type Numbers =
  | Uint8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigUint64Array
  | BigInt64Array
  | Float32Array
  | Float64Array;
const bytesOf = (numbers: Numbers) => Buffer.from(numbers.buffer, numbers.byteOffset, numbers.byteLength);

export interface Launch {
  kernel?: string;
  grid?: readonly [number, number?, number?];
  threads?: readonly [number, number?, number?];
  shared?: number;
  /** Arrays are buffers, written to in place; 'gate' is what hadal's kernels take first. */
  arguments: readonly (Numbers | { value: Numbers } | 'gate')[];
}

const header = '.version 9.0\n.target sm_80\n.address_size 64\n';
let files = 0;

/** A file with PTX; `body` is the text after the header. */
export function ptxFile(body: string): string {
  const file = path.join(folder, `${files++}.ptx`);
  writeFileSync(file, body.includes('.version') ? body : header + body);
  return file;
}

/** Runs a kernel; throws what the interpreter says. */
export function launch(file: string, { kernel = 'k', grid = [1], threads = [32], shared = 0, ...rest }: Launch): void {
  const dimensions = (sizes: readonly (number | undefined)[]) => [0, 1, 2].map((n) => sizes[n] ?? 1).join(' ');
  const lines = [`kernel ${kernel}`, `grid ${dimensions(grid)}`, `threads ${dimensions(threads)}`, `shared ${shared}`];
  const data: Buffer[] = [];
  for (const argument of rest.arguments) {
    if (argument === 'gate') {
      lines.push('gate');
      continue;
    }
    const numbers = 'value' in argument ? argument.value : argument;
    lines.push(`${'value' in argument ? 'value' : 'buffer'} ${numbers.byteLength}`);
    data.push(bytesOf(numbers));
  }
  const input = Buffer.concat([Buffer.from(`${lines.join('\n')}\ndata\n`), ...data]);
  const { status, stdout, stderr, error } = spawnSync(interpreter, ['run', file], { input, maxBuffer: 2 ** 28 });
  // First what it says: one that refuses its file ends without having read all that it is given, which is an error, too.
  if (status) throw new Error(stderr.toString() || `hadal-ptx ended with ${status}`);
  if (error || status === null) throw error ?? new Error('hadal-ptx was killed');
  let at = 0;
  for (const argument of rest.arguments) {
    if (argument === 'gate' || 'value' in argument) continue;
    bytesOf(argument).set(stdout.subarray(at, at + argument.byteLength));
    at += argument.byteLength;
  }
}

/** Runs the kernel `k` of a text. */
export const run = (body: string, options: Launch) => launch(ptxFile(body), options);

const sizes: Record<string, number> = { 8: 1, 16: 2, 32: 4, 64: 8 };
const bits = (type: string) => /\d+$/.exec(type)?.[0] as string;

/**
 * A kernel whose threads load a number of each input, run `body` on them (registers %a, %b, … of inputs; results by name)
 * and store the results. Inputs and outputs are named with their types: `{ a: 's32', d: 's64' }`.
 */
export function lanewise(inputs: Record<string, string>, outputs: Record<string, string>, body: string): string {
  const names = [...Object.keys(inputs), ...Object.keys(outputs)];
  const all = { ...inputs, ...outputs };
  const access = (name: string, kind: 'ld' | 'st') => {
    const type = all[name] as string;
    const width = bits(type);
    const move = kind === 'ld' ? `%${name}, [%at]` : `[%at], %${name}`;
    return `mul.wide.u32 %at, %i, ${sizes[width]}; ld.param.u64 %base, [p_${name}]; add.s64 %at, %at, %base; ${kind}.global.b${width} ${move};`;
  };
  return `.visible .entry k(${names.map((name) => `.param .u64 p_${name}`).join(', ')}) {
    .reg .pred %p<8>; .reg .b32 %i, %n, %t; .reg .b64 %at, %base;
    ${names.map((name) => `.reg .b${Math.max(16, Number(bits(all[name] as string)))} %${name};`).join(' ')}
    mov.u32 %i, %ctaid.x; mov.u32 %n, %ntid.x; mov.u32 %t, %tid.x; mad.lo.s32 %i, %i, %n, %t;
    ${Object.keys(inputs)
      .map((name) => access(name, 'ld'))
      .join('\n')}
    ${body}
    ${Object.keys(outputs)
      .map((name) => access(name, 'st'))
      .join('\n')}
    ret;
  }`;
}
