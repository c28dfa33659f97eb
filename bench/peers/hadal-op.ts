// Our side of single ops: times an entry of ops.json, forward and backward, and prints JSON like pytorch_ops.py.
import { Command } from 'commander';
import { numberBetween, printJson, wholeNumber } from '../../src/cli/output.js';
import { openDevice } from '../../src/runtime/device.js';
import { graphOf, quantile } from '../support/measure.js';
import { timeGraph } from '../support/time-graph.js';
import { caseOf, type OpEntry } from './op-cases.js';

const flags = new Command()
  .requiredOption('--op <json>')
  .option('--threads <n>', '', wholeNumber(1), 2)
  .option('--seconds <n>', '', numberBetween(0, 3600), 1)
  .parse()
  .opts<{ op: string; threads: number; seconds: number }>();

const entry = JSON.parse(flags.op) as OpEntry;
const given = caseOf(entry);
using device = openDevice('cpu', { threads: flags.threads });
let readyBytes = 0;
const onReady = () => {
  readyBytes = process.memoryUsage().rss;
};
const runs = await timeGraph(device, graphOf(given, entry.dtype), given.inputs, { seconds: flags.seconds, onReady });
// What makes a gradient to start from is not the op's.
const own = [entry.kind, `${entry.kind}-backward`];
const times = runs.map((run) => run.reduce((ms, time) => ms + (own.includes(time.op) ? time.ms : 0), 0));
const peak = process.resourceUsage().maxRSS * 1024;
printJson({ ways: { hadal: quantile(times, 0.5) }, extra_mb: Math.max(0, peak - readyBytes) / 2 ** 20 });
