// Runs cases of native/sim/tests, which is one program as it is and one under each sanitizer.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export type Sanitizer = 'none' | 'address' | 'thread';
export type Order = 'forward' | 'reverse' | `random:${number}`;

interface CaseResult {
  name: string;
  isCaught: boolean;
  /** What the case printed: its wrong result, the executor's report or a sanitizer's. */
  text: string;
}

const folder = fileURLToPath(new URL('../../build/Release/', import.meta.url));
const programFor = (sanitizer: Sanitizer) => path.join(folder, `hadal-sim-tests-${sanitizer}`);

/** Whether the program was built: not for another processor, and not in the sanitizers' build of everything. */
export const isBuilt = (sanitizer: Sanitizer): boolean => existsSync(programFor(sanitizer));

/** All cases of a kind, or those named, by name. */
export async function runCases(
  kind: 'planted' | 'primitives',
  sanitizer: Sanitizer,
  order: Order,
  names: readonly string[] = [],
): Promise<Map<string, CaseResult>> {
  const env = {
    ...process.env,
    HADAL_SIM_ORDER: order,
    HADAL_SIM_THREADS: '1',
    ASAN_OPTIONS: 'detect_leaks=0',
    TSAN_OPTIONS: 'atexit_sleep_ms=0',
  };
  const child = spawn(programFor(sanitizer), [kind, ...names], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) output += chunk;
  const results = output
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as CaseResult);
  return new Map(results.map((result) => [result.name, result]));
}
