// docs/launching.md: its examples give each process its place, with the variables that those who run them set.
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { registerLaunch } from '../../src/cli/launch.js';
import { placeFrom, tokenFrom } from '../../src/dist/environment.js';
import { type LaunchFlags, type LaunchSettings, launchSettings } from '../../src/dist/launcher-settings.js';

const page = readFileSync(new URL('../../docs/launching.md', import.meta.url), 'utf8');
const blocks = [...page.matchAll(/```(\w+)\n([\s\S]*?)```/g)].map(([, language, text]) => ({
  language,
  text: text as string,
}));
const bash = (has: string): string =>
  blocks.find(({ language, text }) => language === 'bash' && text.includes(has))?.text as string;
let directory = '';

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'hadal-launching-'));
  // What stands in for programs that are not here: each runs, or tells, what it is asked to, as one of the tasks.
  const stubs = {
    srun: 'while [[ $1 == --* ]]; do shift; done; export SLURM_STEP_ID=0; exec "$@"',
    mpirun: 'while [[ $1 != npx ]]; do [[ $1 == -x && $2 == *=* ]] && export "$2"; shift; done; exec "$@"',
    npx: `exec "${process.execPath}" -e 'console.log(JSON.stringify({ args: process.argv.slice(1), env: process.env }))' -- "$@"`,
    openssl: 'echo 0123456789abcdef0123456789abcdef',
  };
  for (const [name, text] of Object.entries(stubs)) {
    writeFileSync(join(directory, name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(directory, name), 0o755);
  }
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** What a script starts in the end. */
function started(script: string, env: Record<string, string>): { args: string[]; env: Record<string, string> } {
  const path = `${directory}:${process.env.PATH}`;
  return JSON.parse(
    execFileSync('bash', ['--norc', '--noprofile', '-euc', script], { env: { PATH: path, ...env }, encoding: 'utf8' }),
  );
}

/** Settings of the launcher that words and variables make, and the command behind it. */
function launched(words: readonly string[], env: Record<string, string>): LaunchSettings & { command: string[] } {
  const [hadal, ...rest] = words;
  expect([hadal, rest[0]]).toEqual(['hadal', 'launch']);
  const program = new Command().exitOverride();
  registerLaunch(program);
  let got: (LaunchSettings & { command: string[] }) | null = null;
  program.commands[0]?.action((command: string[], flags: LaunchFlags) => {
    got = { ...launchSettings(flags, env), command };
  });
  program.parse(rest, { from: 'user' });
  return got as unknown as LaunchSettings & { command: string[] };
}

const slurm = {
  SLURM_JOB_ID: '812',
  SLURM_NNODES: '2',
  SLURM_NODEID: '1',
  SLURM_JOB_NODELIST: 'box[0-1]',
  SLURM_PROCID: '5',
  SLURM_LOCALID: '1',
};

test('sbatch: a launcher on each node', () => {
  const { args, env } = started(bash('srun --kill-on-bad-exit=1 npx hadal launch'), { ...slurm, SLURM_NTASKS: '2' });
  expect(tokenFrom(env)).toHaveLength(32);
  expect(launched(args, env)).toMatchObject({
    ...{
      processes: 4,
      nodes: { min: 2, max: 2 },
      nodeRank: 1,
      rendezvous: { host: 'box0', port: 15_000 + ((812 * 31) % 17_000) },
    },
    command: ['train', '--config', 'run.yaml', '--resume'],
  });
});

test('sbatch: a process for each task', () => {
  const script = bash('srun --kill-on-bad-exit=1 npx hadal train');
  const perNode = /--ntasks-per-node=(\d+)/.exec(script)?.[1] as string;
  const { env } = started(script, { ...slurm, SLURM_NTASKS: '8', SLURM_NTASKS_PER_NODE: perNode });
  expect(tokenFrom(env)).toHaveLength(32);
  expect(placeFrom(env)).toMatchObject({ rank: 5, size: 8, localRank: 1, localSize: 4, host: 'box0' });
});

test('mpirun', () => {
  const { env } = started(bash('mpirun'), {
    ...{ OMPI_COMM_WORLD_RANK: '5', OMPI_COMM_WORLD_SIZE: '8' },
    ...{ OMPI_COMM_WORLD_LOCAL_RANK: '1', OMPI_COMM_WORLD_LOCAL_SIZE: '4' },
  });
  expect(tokenFrom(env)).toHaveLength(32);
  expect(placeFrom(env)).toMatchObject({ rank: 5, size: 8, localRank: 1, localSize: 4, host: 'box0', port: 29500 });
});

interface Container {
  command: string[];
  env: { name: string; valueFrom: { secretKeyRef: { name: string } } }[];
}
interface Pods {
  replicas: number;
  template: { spec: { containers: [Container] } };
}

/** Objects of the manifest that has one of this kind. */
function manifest(kind: string): Record<string, never>[] {
  const text = blocks.find((block) => block.language === 'yaml' && block.text.includes(`kind: ${kind}\n`))
    ?.text as string;
  return parseAllDocuments(text, { merge: true }).map((document) => {
    expect(document.errors).toEqual([]);
    return document.toJS() as Record<string, never>;
  });
}

function expectSecret({ env }: Container): void {
  expect(env.map(({ name, valueFrom }) => [name, valueFrom.secretKeyRef.name])).toEqual([['HADAL_TOKEN', 'hadal']]);
}

test('a PyTorchJob', () => {
  const [job] = manifest('PyTorchJob') as unknown as [
    { spec: { nprocPerNode: string; pytorchReplicaSpecs: { Master: Pods; Worker: Pods } } },
  ];
  const { Master: master, Worker: worker } = job.spec.pytorchReplicaSpecs;
  expect([master.replicas, worker.replicas]).toEqual([1, 3]);
  for (const [pods, index] of [
    [master, 0],
    [worker, 3],
  ] as const) {
    const [container] = pods.template.spec.containers;
    expectSecret(container);
    const env = {
      ...{ MASTER_ADDR: 'mine-master-0', MASTER_PORT: '23456', WORLD_SIZE: '16', RANK: String(index) },
      ...{ PET_NNODES: '4', PET_NODE_RANK: String(index), PET_NPROC_PER_NODE: job.spec.nprocPerNode },
    };
    expect(launched(container.command.slice(1), env)).toMatchObject({
      ...{
        processes: 4,
        nodes: { min: 4, max: 4 },
        nodeRank: index,
        rendezvous: { host: 'mine-master-0', port: 23456 },
      },
    });
    // As the page says: with one process in each pod, without the launcher.
    const alone = { ...env, PET_NPROC_PER_NODE: '1', WORLD_SIZE: '4' };
    expect(placeFrom(alone)).toMatchObject({ rank: index, size: 4, host: 'mine-master-0' });
    expect(() => placeFrom(env)).toThrow(/hadal launch in each pod/);
  }
});

test('a plain Job', () => {
  const [service, job] = manifest('Job') as unknown as [
    { metadata: { name: string }; spec: { clusterIP: string; selector: Record<string, string> } },
    {
      metadata: { name: string };
      spec: {
        completions: number;
        parallelism: number;
        completionMode: string;
        template: { spec: { subdomain: string; containers: [Container] } };
      };
    },
  ];
  const { spec } = job;
  expect(service.spec).toMatchObject({ clusterIP: 'None', selector: { 'job-name': job.metadata.name } });
  expect(spec).toMatchObject({ completionMode: 'Indexed', completions: 4, parallelism: 4 });
  expect(spec.template.spec.subdomain).toBe(service.metadata.name);
  const [container] = spec.template.spec.containers;
  expectSecret(container);
  const words = container.command.slice(1).map((word) => word.replace('$(JOB_COMPLETION_INDEX)', '2'));
  expect(launched(words, {})).toMatchObject({
    ...{ processes: 4, nodes: { min: spec.completions, max: spec.completions }, nodeRank: 2 },
    rendezvous: { host: `${job.metadata.name}-0.${service.metadata.name}`, port: 29500 },
  });
});

test('the table names variables that are looked for', () => {
  const source = readFileSync(new URL('../../src/dist/environment.ts', import.meta.url), 'utf8');
  const rows = page
    .slice(page.indexOf('| started by'))
    .split('\n')
    .filter((line) => line.startsWith('| '));
  const names = rows.flatMap((row) => [...row.matchAll(/`([A-Z_]{4,})`/g)].map(([, name]) => name as string));
  expect(names.length).toBeGreaterThan(20);
  for (const name of names) expect(source, name).toContain(name);
});
