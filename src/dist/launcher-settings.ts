// How many processes on how many hosts, and where they meet: what flags and the environment say.
import { HadalError } from '../core/errors.js';
import { defaultPort, slurmMeeting } from './environment.js';
import { defaultTiming } from './rendezvous-rounds.js';

export interface LaunchSettings {
  /** Processes on this host. */
  processes: number;
  nodes: { min: number; max: number };
  nodeRank: number;
  /** Where host 0 listens; null: this host is all there is. */
  rendezvous: { host: string; port: number } | null;
  /** Processes started again over the whole run. */
  maxRestarts: number;
  /** The fewest processes to go on with once that is used up; null: those of the fewest hosts. */
  minProcesses: number | null;
}

/** What the command line gives. */
export interface LaunchFlags {
  nproc?: number;
  nnodes?: string;
  nodeRank?: number;
  rendezvous?: string;
  maxRestarts?: number;
  minNproc?: number;
}

/** Silence after which a process counts as lost. */
export const heartbeatSeconds = defaultTiming.heartbeatMs / 1000;
/** Time to come to a new round. */
export const roundSeconds = defaultTiming.nextRoundMs / 1000;

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Settings of a launcher. What a flag does not say, the variables of Kubeflow (`PET_*`, as torchrun reads them) or Slurm (one
 * launcher a node) do.
 *
 * @throws HadalError HADAL_ERR_USAGE
 */
export function launchSettings(flags: LaunchFlags, env: Environment): LaunchSettings {
  const slurm = flags.nnodes === undefined && env.PET_NNODES === undefined ? slurmNodes(env) : null;
  const nodes = nodesFrom(flags.nnodes ?? env.PET_NNODES ?? slurm?.nodes ?? '1');
  const isAlone = nodes.max === 1;
  const nodeRank = flags.nodeRank ?? wholeFrom(env, 'PET_NODE_RANK') ?? slurm?.rank ?? (isAlone ? 0 : null);
  if (nodeRank === null) {
    throw usage(
      'expected --node-rank, a number of its own for each host (0: the one that --rendezvous names), got none',
    );
  }
  if (nodes.min === nodes.max && nodeRank >= nodes.max) {
    throw usage(`expected --node-rank below ${nodes.max} (--nnodes), got ${nodeRank}`);
  }
  const meeting = flags.rendezvous ?? meetingFrom(env) ?? slurm?.meeting;
  if (!isAlone && meeting === undefined) {
    throw usage('expected --rendezvous host:port, where host 0 listens, got none');
  }
  return {
    processes: flags.nproc ?? processesFrom(env),
    ...{ nodes, nodeRank, rendezvous: isAlone && !flags.rendezvous ? null : meetingOf(meeting as string) },
    maxRestarts: flags.maxRestarts ?? wholeFrom(env, 'PET_MAX_RESTARTS') ?? 3,
    minProcesses: flags.minNproc ?? null,
  };
}

/** `2` or `1:4`. */
function nodesFrom(text: string): { min: number; max: number } {
  const [, min, max = min] = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text) ?? [];
  const nodes = { min: Number(min), max: Number(max) };
  if (min !== undefined && nodes.min >= 1 && nodes.max >= nodes.min) return nodes;
  throw usage(`expected --nnodes to be a number of hosts or the fewest and the most of them (1:4), got '${text}'`);
}

/** `host:port`, `[::1]:port` or `host`. */
function meetingOf(text: string): { host: string; port: number } {
  const [, bracketed, plain, port = String(defaultPort)] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  if (host && Number(port) >= 1 && Number(port) <= 65_535) return { host, port: Number(port) };
  throw usage(`expected --rendezvous to be host:port, got '${text}'`);
}

function meetingFrom(env: Environment): string | undefined {
  if (env.PET_RDZV_ENDPOINT) return env.PET_RDZV_ENDPOINT;
  const host = env.PET_MASTER_ADDR || env.MASTER_ADDR;
  return host
    ? `${host.includes(':') ? `[${host}]` : host}:${env.PET_MASTER_PORT || env.MASTER_PORT || defaultPort}`
    : undefined;
}

function processesFrom(env: Environment): number {
  const { PET_NPROC_PER_NODE: text = '1' } = env;
  return text === 'auto' || text === 'cpu' || text === 'gpu'
    ? 1
    : Math.max(1, wholeFrom(env, 'PET_NPROC_PER_NODE') ?? 1);
}

/** A step of srun with one task, this launcher, on each node. */
function slurmNodes(env: Environment): { nodes: string; rank: number; meeting: string } | null {
  const nodes = env.SLURM_STEP_NUM_NODES ?? env.SLURM_NNODES;
  if (env.SLURM_STEP_ID === undefined || nodes === undefined || nodes === '1') return null;
  const tasks = env.SLURM_STEP_NUM_TASKS ?? env.SLURM_NTASKS;
  if (tasks !== nodes) {
    throw usage(`expected one launcher on each of ${nodes} Slurm nodes, got ${tasks} tasks; srun --ntasks-per-node=1`);
  }
  const { host, port } = slurmMeeting(env);
  return host ? { nodes, rank: wholeFrom(env, 'SLURM_NODEID') ?? 0, meeting: `${host}:${port}` } : null;
}

function wholeFrom(env: Environment, name: string): number | null {
  const text = env[name];
  if (text === undefined) return null;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw usage(`expected a whole number in ${name}, got '${text.slice(0, 80)}'`);
}

function usage(message: string): HadalError {
  return new HadalError('HADAL_ERR_USAGE', `[launch] ${message}`);
}
