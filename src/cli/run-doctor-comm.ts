// `hadal doctor --comm`: what lies between the processes of a run.
import type { NativeProcessGroup } from '../addon/addon.js';
import { formatBytes } from '../core/format.js';
import { median } from '../core/median.js';
import { thisPlace } from '../dist/hierarchical.js';
import {
  type AxisAdvice,
  formatQuality,
  hierarchyOf,
  hierarchyPaysFrom,
  type Links,
  type Place,
  placeAxes,
  type Topology,
  topologyOf,
} from '../dist/topology.js';
import { joinWorld, type World } from '../dist/world.js';
import { openDevice } from '../runtime/device.js';
import type { DoctorFlags } from './doctor.js';
import { inProcesses } from './in-processes.js';
import { printJson, printLine, tableLines } from './output.js';
import { progressLine } from './progress-line.js';

/** Messages that are timed: so short that their size does not count, and so long that latency does not. */
const short = { bytes: 1, times: 40, warmups: 10 };
const long = { bytes: 2 ** 20, times: 7, warmups: 1 };

interface CommFindings extends Links, Topology {
  places: Place[];
  axes: AxisAdvice[];
  hierarchy: { isUsed: boolean; paysFrom: number | null };
}

/** Measures in the processes that a launcher started, or starts some, and prints what rank 0 found. */
export async function doctorComm({ json, nproc, timeout }: DoctorFlags): Promise<void> {
  const joined = await joinWorld({ timeout });
  if (!joined) return inProcesses(nproc, 'doctor --comm');
  using device = openDevice('cpu', { threads: 1 });
  await using world = joined; // behind the device: it takes the group away from it
  await world.connect(device, { backend: 'auto', timeout });
  const places = await world.gather('place', await thisPlace());
  const links = await measureLinks(world, world.group as NativeProcessGroup);
  if (world.rank > 0) return;
  const topology = topologyOf(places, links);
  const findings: CommFindings = {
    ...{ ...topology, ...links, places },
    axes: placeAxes(topology),
    hierarchy: { isUsed: hierarchyOf(topology.boxes) !== null, paysFrom: hierarchyPaysFrom(topology) },
  };
  if (json) printJson(findings);
  else printLine(findingLines(findings).join('\n'));
}

/** One pair after the other, so that none disturbs another. */
async function measureLinks(world: World, group: NativeProcessGroup): Promise<Links> {
  const { rank, size } = world;
  using progress = progressLine(process.stderr);
  const own = { latencyUs: Array<number>(size).fill(0), bandwidth: Array<number>(size).fill(0) };
  for (let a = 0; a < size; a++) {
    for (let b = a + 1; b < size; b++) {
      if (rank === a || rank === b) {
        const peer = rank === a ? b : a;
        own.latencyUs[peer] = 1000 * (await time(group, peer, short));
        own.bandwidth[peer] = long.bytes / (await time(group, peer, long)) / 1e6;
      }
      if (rank === 0) progress.show(`ranks ${a} and ${b}`);
      await world.gather(`pair ${a} ${b}`, null);
    }
  }
  const all = await world.gather('links', own);
  return { latencyUs: all.map((each) => each.latencyUs), bandwidth: all.map((each) => each.bandwidth) };
}

async function time(
  group: NativeProcessGroup,
  peer: number,
  { bytes, times, warmups }: { bytes: number; times: number; warmups: number },
): Promise<number> {
  return median((await group.timeExchange(peer, bytes, warmups + times)).slice(warmups));
}

function findingLines(findings: CommFindings): string[] {
  const { boxes, places, inside, across, axes, hierarchy, latencyUs, bandwidth } = findings;
  const matrix = (name: string, values: Links['latencyUs'], format: (value: number) => string) => [
    '',
    ...tableLines([
      [name, ...places.map((_, to) => `${to}`)],
      ...values.map((row, from) => [`rank ${from}`, ...row.map((value, to) => (from === to ? '-' : format(value)))]),
    ]),
  ];
  const paysFrom = hierarchy.paysFrom === null ? 'does not pay' : `pays from ${formatBytes(hierarchy.paysFrom)} on`;
  return [
    ...boxes.map((ranks, i) => `box ${i} (${places[ranks[0] as number]?.host}): ranks ${ranks.join(', ')}`),
    ...matrix('latency, µs', latencyUs, (us) => us.toFixed(us < 10 ? 1 : 0)),
    ...matrix('bandwidth, GB/s', bandwidth, (gbs) => gbs.toPrecision(3)),
    '',
    ...(inside ? [`inside boxes: ${formatQuality(inside)}`] : []),
    ...(across ? [`across boxes: ${formatQuality(across)}`] : []),
    '',
    ...axes.map(({ axis, isInside, mostRanks, reason }) => {
      const most = mostRanks === null ? '' : `, of at most ${mostRanks}`;
      return `${axis}  ${isInside ? `inside a box${most}` : 'may cross boxes'}: ${reason}`;
    }),
    '',
    hierarchy.isUsed ? `all-reduce in two levels: ${paysFrom}` : 'all-reduce in one level',
  ];
}
