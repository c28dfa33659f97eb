// `npm run bench`: times every kernel on shapes of a training step and on shapes that no cache holds.
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { Command } from 'commander';
import { numberBetween, oneOf, printLine, wholeNumber } from '../src/cli/output.js';
import { openDevice } from '../src/runtime/device.js';
import { type BenchDType, benchDTypes } from './support/bench-case.js';
import { loadFamilies } from './support/families.js';
import { measurePeaks } from './support/machine.js';
import { compareLines, readReport } from './support/report.js';
import { runBenches } from './support/run-benches.js';

interface Flags {
  op?: string;
  shape?: string;
  dtype?: BenchDType;
  threads: number;
  seconds: number;
  out: string;
  compare?: string;
}

const program = new Command('npm run bench --')
  .description('Times kernels alone: medians, their spread, rates, and shares of what this machine was measured to do.')
  .option('--op <text>', 'only families and kernels whose name contains it')
  .option('--shape <text>', 'only shapes whose description contains it')
  .option('--dtype <name>', 'only this number format', oneOf(benchDTypes))
  .option('--threads <n>', 'threads', wholeNumber(1), availableParallelism())
  .option('--seconds <n>', 'time that a shape is given, beyond five runs', numberBetween(0, 3600), 0.3)
  .option('--out <file>', 'where the JSON goes', 'bench/results/latest.json')
  .option('--compare <file>', 'print ratios to an older JSON')
  .parse();
const flags = program.opts<Flags>();

const older =
  flags.compare === undefined
    ? null
    : await readReport(flags.compare).catch((error: Error) => program.error(`error: ${error.message}`));
using device = openDevice('cpu', { threads: flags.threads });
const report = await runBenches(device, await loadFamilies(flags.op), {
  ...flags,
  peaks: () => measurePeaks(device, { seconds: 4 * flags.seconds }),
  write: printLine,
});
await mkdir(dirname(flags.out), { recursive: true });
await writeFile(flags.out, `${JSON.stringify(report, null, 1)}\n`);
printLine(`\n${report.results.length} results in ${flags.out}`);
if (older) printLine(`\n${compareLines(older, report).join('\n')}`);
