// All-reduce between processes of this machine: ours, and PyTorch's over the same engine (Gloo), in turns.
import { fileURLToPath } from 'node:url';
import { loadOfMachine } from '../support/machine.js';
import { quantile } from '../support/measure.js';
import { runProcess } from './compare.js';
import type { CommResult } from './results.js';

interface CompareCommOptions {
  python: string;
  rounds: number;
  say: (line: string) => void;
}

const commSizes = Array.from({ length: 9 }, (_, i) => 4096 * 4 ** i);

interface CommRun {
  collectives?: { bytes: number; ms: number }[];
  results?: { bytes: number; ms: number }[];
}

const pathOf = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));

/** 4 KiB to 256 MiB of fp32. */
export async function compareComm(
  processes: number,
  { python, rounds, say }: CompareCommOptions,
): Promise<CommResult[]> {
  const flags = ['--nproc', `${processes}`, '--sizes', commSizes.join(',')];
  const cli = [process.execPath, pathOf('../../dist/cli/main.js')];
  const commands = {
    hadal: [...cli, 'bench', 'comm', ...flags, '--only', 'all-reduce', '--json'],
    PyTorch: [python, pathOf('pytorch_comm.py'), ...flags],
  };
  const load = loadOfMachine();
  const times = { hadal: commSizes.map((): number[] => []), PyTorch: commSizes.map((): number[] => []) };
  for (let round = 1; round <= rounds; round++) {
    for (const name of ['hadal', 'PyTorch'] as const) {
      say(`comm of ${processes} processes: round ${round} of ${rounds}, ${name}`);
      const { collectives, results = collectives } = await runProcess<CommRun>({ command: commands[name] });
      for (const [i, { ms }] of (results ?? []).entries()) times[name][i]?.push(ms);
    }
  }
  return commSizes.map((bytes, i) => ({
    ...{ processes, bytes, load },
    hadalMs: quantile(times.hadal[i] as number[], 0.5),
    pytorchMs: quantile(times.PyTorch[i] as number[], 0.5),
  }));
}
