// What overlap, compression and sums in two levels are for: a DeepSeek model of 14.3 M parameters, 32 × 256 tokens an update, in
// two processes, on two hosts (network namespaces) joined by a link of 1 Gbit/s, and again with 2 ms of delay each way; and
// what several processes cost where there is no link at all.
//
//   npm run accept -- link [parts=rate,delay,hierarchy,loopback] [steps=5] [only=] [rounds=3]
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { canMakeNetworks, here, onHosts } from './support/hosts.mjs';

const [parts = 'rate,delay,hierarchy,loopback', given = '5', only = '', turns = '3'] = process.argv.slice(2);
const [steps, rounds] = [Number(given), Number(turns)];
const wants = (part) => parts.split(',').includes(part);
const mbit = 1000;
const leastLoopback = 0.9;
const folder = mkdtempSync(join(tmpdir(), 'hadal-link-'));
const model = JSON.parse(readFileSync(new URL('../../bench/peers/deepseek-14m.json', import.meta.url), 'utf8'));
/** @type {[string, boolean][]} */
const checks = [];

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

/** Words of a training run whose first update is warm-up. */
function training(dist, threads) {
  const file = join(folder, 'config.json');
  const config = {
    model: { config: model },
    data: { sources: ['sotu'], cache: join(folder, 'data') },
    out: join(folder, 'run'),
    steps: steps + 1,
    ...{ batch: 32, seqLen: 256, dtype: 'fp32', threads },
    evaluation: { batches: 1 },
    dist,
  };
  rmSync(config.out, { recursive: true, force: true });
  writeFileSync(file, JSON.stringify(config));
  return ['train', '--config', file, '--json'];
}

/** The updates of a run behind the first one. */
function updatesOf(events) {
  const updates = events.filter(({ type }) => type === 'step').slice(1);
  if (updates.length !== steps) throw new Error(`expected ${steps + 1} updates, got ${updates.length + 1}`);
  return updates;
}

/** @type {[name: string, dist: object][]} */
const modes = [
  ['plain, blocking', { overlap: false, bucketMiB: 4096 }],
  ['overlap', {}],
  ...['fp16', 'int8', 'topk', 'powersgd'].map(
    (kind) => /** @type {[string, object]} */ ([`overlap, ${kind}`, { compression: { kind } }]),
  ),
];

/** Every mode on two hosts, in turns: what disturbs the machine for a while disturbs all alike. */
async function link(delayMs) {
  const where = `${mbit / 1000} Gbit/s${delayMs > 0 ? `, ${delayMs} ms each way` : ''}`;
  console.log(`\n2 hosts of a process, ${where}, ${rounds} × ${steps} updates, load ${loadavg()[0]?.toFixed(1)}:`);
  const wanted = modes.filter(([name]) => name.startsWith('plain') || name.includes(only));
  const found = new Map(wanted.map(([name]) => [name, /** @type {any[]} */ ([])]));
  for (let round = 0; round < rounds; round++) {
    for (const [name, dist] of wanted) {
      const run = await onHosts(training(dist, 1), { hosts: 2, nproc: 1, mbit, delayMs });
      found.get(name)?.push(...updatesOf(run));
    }
  }
  console.log('mode                 step ms  factor  comm ms  waited for  sent MB    loss');
  let [plain, best] = [0, 0];
  for (const [name, updates] of found) {
    const of = (value) => median(updates.map(value));
    const ms = of(({ stepMs }) => stepMs);
    plain ||= ms;
    if (name.startsWith('overlap, ')) best = Math.max(best, plain / ms);
    console.log(
      name.padEnd(20),
      ms.toFixed(0).padStart(7),
      `${(plain / ms).toFixed(2)}×`.padStart(7),
      of(({ world }) => world.communicationMs)
        .toFixed(0)
        .padStart(8),
      `${(100 * of(({ world }) => world.commShare)).toFixed(0)} %`.padStart(11),
      (of(({ world }) => world.wireBytesSent) / 1e6).toFixed(1).padStart(8),
      updates.at(-1).loss.toFixed(3).padStart(7),
    );
  }
  checks.push([`overlap and compression are ${best.toFixed(2)} times as fast as blocking at ${where}`, best > 1]);
}

/** All-reduces of 2 hosts of 2 processes in one level and in two. */
async function hierarchy() {
  const command = ['bench', 'comm', '--sizes', '4K,64K,256K,1M,4M,16M,64M', '--only', 'all-reduce', '--json'];
  const times = async (levels) => {
    const where = { hosts: 2, nproc: 2, mbit, delayMs: 0, env: { HADAL_COMM_HIERARCHY: levels } };
    const [report] = await onHosts(command, where);
    return report.collectives;
  };
  console.log(`\n2 hosts of 2 processes, ${mbit / 1000} Gbit/s, all-reduce in one level and in two:`);
  const [flat, levels] = [await times('off'), await times('0')];
  for (const [i, { bytes, ms }] of flat.entries()) {
    const factor = ms / levels[i].ms;
    console.log(
      `${bytes / 1024} KiB`.padStart(10),
      `${ms.toFixed(2)} ms, ${levels[i].ms.toFixed(2)} ms, ${factor.toFixed(2)}×`,
    );
    if (bytes >= 2 ** 24)
      checks.push([`two levels of ${bytes / 2 ** 20} MiB are ${factor.toFixed(2)} times as fast`, factor > 1]);
  }
}

/** Two processes of a thread against one of two. */
async function loopback() {
  console.log('\none process of two threads and two of one, without a link, in turns:');
  const speed = (events) => median(updatesOf(events).map(({ tokensPerSecond }) => tokensPerSecond));
  const ratios = [];
  for (let round = 0; round < rounds; round++) {
    const one = speed(await here(training({}, 2)));
    const two = speed(await here(['launch', '--nproc', '2', '--', ...training({}, 1)]));
    ratios.push(two / one);
    console.log(`${one.toFixed(0)} tokens/s, ${two.toFixed(0)} tokens/s`);
  }
  const ratio = median(ratios);
  checks.push([
    `two processes reach ${ratio.toFixed(2)} of one's tokens/s, at least ${leastLoopback}`,
    ratio >= leastLoopback,
  ]);
}

try {
  console.log(`${cpus().length} processors (${cpus()[0]?.model}), load ${loadavg()[0]?.toFixed(1)}`);
  const needsHosts = ['rate', 'delay', 'hierarchy'].filter(wants);
  if (needsHosts.length > 0 && !canMakeNetworks()) {
    console.log(`skipped, since only root may make network namespaces: ${needsHosts.join(', ')}`);
  } else {
    if (wants('rate')) await link(0);
    if (wants('delay')) await link(2);
    if (wants('hierarchy')) await hierarchy();
  }
  if (wants('loopback')) await loopback();
} finally {
  rmSync(folder, { recursive: true });
}
console.log();
for (const [text, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
