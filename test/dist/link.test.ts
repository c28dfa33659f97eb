// Training and measuring between hosts that are network namespaces: `npm run accept -- link`, tiny. They run the compiled files.
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { canMakeNetworks, type Host, hostPorts, makeNetwork, type Network } from '../support/network.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** What host 0 prints of a command that all hosts run in processes, a value a line. */
async function launched({ hosts }: Network, nproc: number, command: readonly string[]): Promise<Event[]> {
  const meeting = `${(hosts[0] as Host).address}:${hostPorts.first}`;
  const run = async (host: Host, i: number): Promise<Event[]> => {
    const flags = ['--nnodes', hosts.length, '--node-rank', i, '--nproc', nproc, '--max-restarts', 0].map(String);
    const child = host.spawn(process.execPath, [main, 'launch', ...flags, '--rendezvous', meeting, '--', ...command], {
      env: { ...process.env, HADAL_TOKEN: 'a secret of hosts that are none' },
    });
    let [output, errors] = ['', ''];
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    const [status] = await once(child, 'close');
    if (status !== 0) throw new Error(`host ${i} ended with status ${status}:\n${errors}`);
    return output
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Event);
  };
  const [first] = await Promise.all(hosts.map(run));
  return first as Event[];
}

// biome-ignore lint/suspicious/noExplicitAny: lines of JSON
type Event = any;

describe.skipIf(!canMakeNetworks())(
  'hosts on a slow link (skipped where only root may make network namespaces)',
  () => {
    it('train faster with half of the bytes', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'hadal-link-'));
      await using network = await makeNetwork({ hosts: 2, mbit: 16 });
      try {
        const updates = async (name: string, ...set: string[]) => {
          const fields = ['steps=4', 'evaluation.batches=1', `data.cache=${join(folder, 'data')}`, 'threads=1', ...set];
          const words = ['train', '--preset', 'test', '--out', join(folder, name), '--json'];
          const events = await launched(network, 1, [...words, ...fields.flatMap((field) => ['--set', field])]);
          return events.filter(({ type }) => type === 'step').slice(1);
        };
        const total = (steps: readonly Event[], of: (step: Event) => number) =>
          steps.reduce((sum, step) => sum + of(step), 0);
        const plain = await updates('plain', 'dist.overlap=false');
        const short = await updates('short', 'dist.compression.kind=fp16');
        const [all, half] = [plain, short].map((steps) => total(steps, ({ world }) => world.wireBytesSent)) as [
          number,
          number,
        ];
        expect(half / all).toBeGreaterThan(0.49);
        expect(half / all).toBeLessThan(0.6);
        // The link is what an update waits for: 16 bits a microsecond.
        expect(total(plain, ({ stepMs }) => stepMs)).toBeGreaterThan(0.9 * (all / 2000));
        expect(total(plain, ({ world }) => world.commShare) / plain.length).toBeGreaterThan(0.5);
        expect(total(short, ({ stepMs }) => stepMs)).toBeLessThan(0.8 * total(plain, ({ stepMs }) => stepMs));
        expect(short.at(-1).loss).toBeCloseTo(plain.at(-1).loss, 2);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });

    it('are told apart, and sum in two levels', async () => {
      await using network = await makeNetwork({ hosts: 2, mbit: 400 });
      const [findings] = await launched(network, 2, ['doctor', '--comm', '--json']);
      expect(findings.boxes).toEqual([
        [0, 1],
        [2, 3],
      ]);
      expect(findings.across.bandwidth).toBeLessThan(0.06);
      expect(findings.inside.bandwidth).toBeGreaterThan(0.1);
      expect(findings.hierarchy.isUsed).toBe(true);
      expect(findings.hierarchy.paysFrom).toBeLessThanOrEqual(2 ** 20);
    });
  },
);
