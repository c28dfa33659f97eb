// `--profile`: where the time of a step goes, as a trace in a file and as tables.
import { loadAddon } from '../addon/addon.js';
import { formatInteger } from '../core/format.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { chromeTrace } from '../runtime/chrome-trace.js';
import type { InstructionTime } from '../runtime/device.js';
import { profileTable } from '../runtime/profile.js';

/** Refuses a path that cannot be written, before anything is computed. @throws HadalError HADAL_ERR_IO */
export async function requireProfilePath(path: string | undefined): Promise<void> {
  if (path !== undefined) await writeFileAtomic(path, '[]\n');
}

/** Writes a step's trace. @returns lines for people: by op, by module, and where the trace is */
export async function writeProfile(
  path: string,
  times: readonly InstructionTime[],
  threads: number,
): Promise<string[]> {
  const trace = chromeTrace(times, { threads, instructionSet: loadAddon().features().isa });
  await writeFileAtomic(path, `${JSON.stringify(trace)}\n`);
  return [
    ...[profileTable(times, 'op'), '', profileTable(times, 'module'), ''].join('\n').split('\n'),
    `profile of ${formatInteger(times.length)} instructions in ${path} (chrome://tracing, ui.perfetto.dev)`,
  ];
}
