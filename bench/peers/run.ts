// `npm run bench:peers`: hadal and PyTorch in turns, a process each, on the same weights and tokens.
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { basename, dirname } from 'node:path';
import { Command } from 'commander';
import { printLine, wholeNumber } from '../../src/cli/output.js';
import { openDevice } from '../../src/runtime/device.js';
import { describeMachine, measurePeaks } from '../support/machine.js';
import { compareComm } from './comm.js';
import { compareModel, compareOp } from './compare.js';
import { nameOf, readOps } from './op-cases.js';
import { findPython } from './python.js';
import { lossMismatches, markdownOf, type PeersReport } from './results.js';

interface Flags {
  only?: string;
  config?: string;
  batch: number;
  seq: number;
  rounds: number;
  steps: number;
  warmup: number;
  threads: number;
  compile: boolean;
  out: string;
}

const models = [
  { name: 'deepseek-14m', batch: 8, seq: 256 },
  { name: 'deepseek-116m', batch: 4, seq: 256 },
  { name: 'gpt2-124m', batch: 4, seq: 256 },
];

const flags = new Command('npm run bench:peers --')
  .description(
    'Compares hadal with PyTorch: training steps, and single ops. HADAL_PYTHON names a Python that has PyTorch.',
  )
  .option(
    '--only <text>',
    `only what has it in its name, of ${models.map(({ name }) => name).join(', ')}, the single ops, whose names begin with 'ops:', and 'comm', all-reduces between processes`,
  )
  .option('--config <file>', 'config.json of another model, in place of all that')
  .option('--batch <n>', 'rows a step of that model', wholeNumber(1), 8)
  .option('--seq <n>', 'tokens a row of that model', wholeNumber(2), 256)
  .option('--rounds <n>', 'runs of each program', wholeNumber(1), 3)
  .option('--steps <n>', 'steps that are timed in a run', wholeNumber(1), 8)
  .option('--warmup <n>', 'steps before them', wholeNumber(0), 2)
  .option('--threads <n>', 'threads of either program', wholeNumber(1), Math.min(2, availableParallelism()))
  .option('--no-compile', 'without torch.compile')
  .option('--out <file>', 'where the JSON goes; the tables go beside it as .md', 'bench/results/peers.json')
  .parse()
  .opts<Flags>();

const say = (line: string) => void process.stderr.write(`${line}\n`);
const python = findPython(say);
const leftOut: string[] = [];
if (!flags.compile) leftOut.push('torch.compile: --no-compile');

const machine = describeMachine(flags.threads);
const report: PeersReport = {
  ...{ machine, python: python.versions, rounds: flags.rounds, models: [], ops: [], comm: [], leftOut },
  peaks: await peaksOf(flags.threads),
};
const options = {
  ...flags,
  python: python.path,
  peaks: report.peaks,
  instructionSet: machine.instructionSet,
  leftOut,
  say,
};

const isWanted = (name: string) => name.includes(flags.only ?? '');
const given =
  flags.config === undefined ? null : [{ ...flags, name: basename(flags.config, '.json'), file: flags.config }];
const listed = models.map((model) => ({ ...model, file: new URL(`${model.name}.json`, import.meta.url).pathname }));
for (const model of given ?? listed.filter(({ name }) => isWanted(name))) {
  report.models.push(await compareModel(model, options));
}
for (const entry of given ? [] : (await readOps()).filter((each) => isWanted(`ops: ${nameOf(each)}`))) {
  report.ops.push(await compareOp(entry, options));
}

for (const processes of given || !isWanted('comm') ? [] : [2, 4]) {
  report.comm.push(...(await compareComm(processes, options)));
}

if (report.models.length + report.ops.length + report.comm.length === 0)
  throw new Error(`nothing that is compared has '${flags.only}' in its name`);
const markdown = markdownOf(report);
await mkdir(dirname(flags.out), { recursive: true });
await writeFile(flags.out, `${JSON.stringify(report, null, 1)}\n`);
await writeFile(flags.out.replace(/(\.json)?$/, '.md'), markdown);
printLine(markdown);
const mismatches = report.models.flatMap(lossMismatches);
for (const mismatch of mismatches) say(`mismatch: ${mismatch}`);
if (mismatches.length > 0) process.exitCode = 1;

async function peaksOf(threads: number): Promise<PeersReport['peaks']> {
  using device = openDevice('cpu', { threads });
  return await measurePeaks(device);
}
