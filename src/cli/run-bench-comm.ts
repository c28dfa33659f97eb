// `hadal bench comm`: what a process of a run takes to sum, gather and send.
import { HadalError } from '../core/errors.js';
import { joinWorld } from '../dist/world.js';
import { openDevice } from '../runtime/device.js';
import type { BenchCommFlags } from './bench-comm.js';
import { type Collective, type CommReport, collectives, commLines, onLink } from './comm-report.js';
import { inProcesses } from './in-processes.js';
import { type CompressionKind, type Member, timeCollective, timeCompressions } from './measure-comm.js';
import { printJson, printLine } from './output.js';
import { progressLine } from './progress-line.js';

const kinds: readonly CompressionKind[] = ['none', 'fp16', 'bf16', 'int8', 'topk', 'powersgd'];

/** Measures in the processes that a launcher started, or starts some, and prints what rank 0 saw. */
export async function benchComm(flags: BenchCommFlags): Promise<void> {
  const { sizes, only = '', threads, timeout, link } = flags;
  const isWanted = (name: string) => name.includes(only);
  const wanted = { collectives: collectives.filter(isWanted), kinds: kinds.filter(isWanted) };
  if (wanted.collectives.length + wanted.kinds.length === 0) {
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[bench] expected --only to be part of one of ${[...collectives, ...kinds].join(', ')}, got '${only}'`,
    );
  }
  const joined = await joinWorld({ timeout });
  if (!joined) return inProcesses(flags.nproc, 'bench comm');
  using device = openDevice('cpu', { threads });
  await using world = joined; // behind the device: it takes the group away from it
  using progress = progressLine(process.stderr);
  await world.connect(device, { backend: 'auto', timeout });
  const member: Member = { device, size: world.size, sentBytes: () => world.group?.wireBytes().sent ?? 0 };
  const report: CommReport = { ranks: world.size, threads, collectives: [], compressions: [], link: null };
  const say = (what: Collective | CompressionKind, bytes: number) =>
    world.rank === 0 && progress.show(`${what}, ${bytes} bytes`);
  for (const bytes of sizes) {
    for (const collective of wanted.collectives) {
      say(collective, bytes);
      report.collectives.push(await timeCollective(member, collective, bytes));
    }
    if (wanted.kinds.length === 0) continue;
    say('none', bytes);
    const times = await timeCompressions(member, world.rank, wanted.kinds, bytes);
    report.compressions.push(...times);
    if (link === undefined) continue;
    report.link ??= { bitsPerSecond: link, times: [] };
    report.link.times.push(...onLink(times, link));
  }
  await world.gather('measured', null);
  progress.clear();
  if (world.rank > 0) return;
  if (flags.json) printJson(report);
  else printLine(commLines(report).join('\n'));
}
