// Which process of which run is this: what launchers say in the environment.
import { HadalError } from '../core/errors.js';

type Environment = Readonly<Record<string, string | undefined>>;

/** A process among a number that stays the same. */
export interface StaticPlace {
  kind: 'static';
  /** Who said so, for messages. */
  launcher: string;
  rank: number;
  size: number;
  /** Among the processes of this host; null: not said. */
  localRank: number | null;
  localSize: number | null;
  /** Where rank 0 listens. */
  host: string;
  port: number;
}

/** A process that `hadal launch` started, and which learns from it who it is, every round anew. */
export interface LaunchedPlace {
  kind: 'launched';
  worker: string;
  host: string;
  port: number;
}

/** The port of torchrun, where nothing else is said. */
export const defaultPort = 29500;

const leastTokenLength = 16;

/** The run's secret. @throws HadalError HADAL_ERR_CONFIG where there is none, or hardly one */
export function tokenFrom(env: Environment): string {
  const token = env.HADAL_TOKEN ?? '';
  if (token.length >= leastTokenLength) return token;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[dist] expected HADAL_TOKEN, a secret of at least ${leastTokenLength} characters, the same for all processes of the run, got ${token === '' ? 'none' : `${token.length} characters`}; set it where the run is started: export HADAL_TOKEN=$(openssl rand -hex 32)`,
  );
}

/**
 * This process's place. Known are `hadal launch`; RANK and WORLD_SIZE with the meaning torchrun gives them (Kubeflow's
 * PyTorchJob sets them, too); Horovod; Open MPI; MPICH's and Intel's PMI; Slurm's srun. Where there are several, the one named
 * first counts: `mpirun` within a Slurm job leaves Slurm's variables as they were.
 *
 * @returns null for a process of its own
 * @throws HadalError HADAL_ERR_CONFIG for variables that are missing, broken or contradict each other
 */
export function placeFrom(env: Environment): StaticPlace | LaunchedPlace | null {
  if (env.HADAL_WORKER !== undefined) return launchedPlace(env, env.HADAL_WORKER);
  const ranks = ranksFrom(env);
  if (!ranks) return null;
  checkRanks(ranks);
  const { launcher, rank, size, localRank, localSize } = ranks;
  if (size === 1) return null;
  return { kind: 'static', launcher, rank, size, localRank, localSize, ...masterFrom(env, ranks) };
}

type Ranks = Pick<StaticPlace, 'launcher' | 'rank' | 'size' | 'localRank' | 'localSize'>;

/** Names of the variables of one launcher. */
interface Source {
  launcher: string;
  rank: string;
  size: string;
  localRank: string;
  localSize: string;
}

const torchrun: Source = {
  launcher: 'RANK and WORLD_SIZE',
  rank: 'RANK',
  size: 'WORLD_SIZE',
  localRank: 'LOCAL_RANK',
  localSize: 'LOCAL_WORLD_SIZE',
};

const sources: readonly Source[] = [
  torchrun,
  {
    launcher: 'Horovod',
    rank: 'HOROVOD_RANK',
    size: 'HOROVOD_SIZE',
    localRank: 'HOROVOD_LOCAL_RANK',
    localSize: 'HOROVOD_LOCAL_SIZE',
  },
  {
    launcher: 'Open MPI',
    rank: 'OMPI_COMM_WORLD_RANK',
    size: 'OMPI_COMM_WORLD_SIZE',
    localRank: 'OMPI_COMM_WORLD_LOCAL_RANK',
    localSize: 'OMPI_COMM_WORLD_LOCAL_SIZE',
  },
  // Hydra, the process manager of MPICH and Intel MPI.
  { launcher: 'PMI', rank: 'PMI_RANK', size: 'PMI_SIZE', localRank: 'MPI_LOCALRANKID', localSize: 'MPI_LOCALNRANKS' },
];

function launchedPlace(env: Environment, worker: string): LaunchedPlace {
  const host = env.MASTER_ADDR;
  if (!host) throw missing('MASTER_ADDR', 'HADAL_WORKER', 'start the process by hadal launch');
  return { kind: 'launched', worker, host, port: portFrom(env) ?? defaultPort };
}

function ranksFrom(env: Environment): Ranks | null {
  const found = sources.filter(({ rank, size }) => env[rank] !== undefined || env[size] !== undefined);
  const [first, second] = found.map((source) => readRanks(env, source));
  // Variables set by hand for all processes of an mpirun. A launcher started by another (mpirun … torchrun) is none.
  if (
    first &&
    second &&
    env.LOCAL_WORLD_SIZE === undefined &&
    (first.rank !== second.rank || first.size !== second.size)
  ) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[dist] expected one place for this process, got rank ${first.rank} of ${first.size} by ${first.launcher} and rank ${second.rank} of ${second.size} by ${second.launcher}; unset the variables of one of them`,
    );
  }
  if (first) return first.launcher === torchrun.launcher ? withoutPods(env, first) : first;
  refusePodsAlone(env);
  // A batch script has the variables of its job, too, but only srun starts steps.
  return env.SLURM_STEP_ID !== undefined && env.SLURM_PROCID !== undefined ? slurmRanks(env) : null;
}

function readRanks(env: Environment, { launcher, rank, size, localRank, localSize }: Source): Ranks {
  for (const [name, other] of [
    [rank, size],
    [size, rank],
  ] as const) {
    if (env[name] === undefined) throw missing(name, other, `set both, or unset ${other} to train in one process`);
  }
  return {
    launcher,
    rank: wholeFrom(env, rank) as number,
    size: wholeFrom(env, size) as number,
    localRank: wholeFrom(env, localRank),
    localSize: wholeFrom(env, localSize),
  };
}

/** In a PyTorchJob RANK counts pods: with several processes in each it is no process's rank. */
function withoutPods(env: Environment, ranks: Ranks): Ranks {
  const perPod = env.PET_NPROC_PER_NODE;
  if (perPod === undefined || perPod === '1' || perPod === 'auto' || ranks.localRank !== null) return ranks;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[dist] expected RANK to be of a process, got that of a pod (PET_NPROC_PER_NODE is ${perPod}); start hadal launch in each pod, which starts the processes`,
  );
}

/** Variables that are for a launcher within the pod, and none here. */
function refusePodsAlone(env: Environment): void {
  const { PET_NNODES: pods = '1', PET_NPROC_PER_NODE: perPod = '1' } = env;
  if (pods === '1' && (perPod === '1' || perPod === 'auto')) return;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[dist] expected the place of this process among ${pods} pods of ${perPod} processes, got PET_* variables, which are for a launcher; start hadal launch in each pod`,
  );
}

function slurmRanks(env: Environment): Ranks {
  const size = env.SLURM_STEP_NUM_TASKS === undefined ? 'SLURM_NTASKS' : 'SLURM_STEP_NUM_TASKS';
  if (env[size] === undefined) throw missing(size, 'SLURM_PROCID', 'start the processes by srun --ntasks');
  // "4", or "4(x2),3" where nodes differ: then only nodes' own numbers are sure.
  const perNode = /^\d+(\(x\d+\))?$/.test(env.SLURM_STEP_TASKS_PER_NODE ?? '')
    ? Number.parseInt(env.SLURM_STEP_TASKS_PER_NODE as string, 10)
    : wholeFrom(env, 'SLURM_NTASKS_PER_NODE');
  const ranks = {
    launcher: 'Slurm',
    rank: wholeFrom(env, 'SLURM_PROCID') as number,
    size: wholeFrom(env, size) as number,
    localRank: wholeFrom(env, 'SLURM_LOCALID'),
  };
  // --ntasks-per-node is the most a node takes.
  return { ...ranks, localSize: perNode !== null && ranks.size % perNode === 0 ? perNode : null };
}

function checkRanks({ launcher, rank, size, localRank, localSize }: Ranks): void {
  const fail = (expected: string, got: string): never => {
    throw new HadalError('HADAL_ERR_CONFIG', `[dist] expected ${expected} by ${launcher}, got ${got}`);
  };
  if (size < 1) fail('at least one process', `${size}`);
  if (rank >= size) fail(`a rank below ${size}`, `${rank}`);
  if (localSize !== null && (localSize < 1 || localSize > size)) {
    fail(`1 to ${size} processes on this host`, `${localSize}`);
  }
  const most = Math.min(localSize ?? size, size);
  if (localRank !== null && localRank >= most) fail(`a local rank below ${most}`, `${localRank}`);
}

function masterFrom(env: Environment, ranks: Ranks): { host: string; port: number } {
  const isSlurm = ranks.launcher === 'Slurm';
  const host = env.MASTER_ADDR || (isSlurm ? slurmMaster(env) : undefined);
  const isOneHost = ranks.localSize === ranks.size;
  if (!host && !isOneHost) {
    throw missing('MASTER_ADDR', ranks.launcher, 'set it to the address of the host of rank 0, for all processes');
  }
  return { host: host || '127.0.0.1', port: portFrom(env) ?? (isSlurm ? slurmPort(env) : defaultPort) };
}

/** Where the tasks of a Slurm step meet: a port of its own on the first node. */
export function slurmMeeting(env: Environment): { host: string | undefined; port: number } {
  return { host: slurmMaster(env), port: portFrom(env) ?? slurmPort(env) };
}

function slurmMaster(env: Environment): string | undefined {
  const nodes = env.SLURM_STEP_NODELIST || env.SLURM_JOB_NODELIST || env.SLURM_NODELIST;
  return nodes ? firstNode(nodes) : env.SLURM_LAUNCH_NODE_IPADDR;
}

/** The first of Slurm's short form of hosts: of `gpu[07-09,12],login`, `gpu07`. @throws HadalError HADAL_ERR_CONFIG */
export function firstNode(list: string): string {
  const [, first] = /^((?:[^[\],]+|\[[^[\]]+\])+)(,|$)/.exec(list) ?? [];
  if (first === undefined) {
    throw new HadalError('HADAL_ERR_CONFIG', `[dist] expected a list of Slurm nodes, got '${list}'; set MASTER_ADDR`);
  }
  return first.replaceAll(/\[(\w+)[^\]]*\]/g, '$1');
}

/** Below the ports that systems deal out, and not the same for steps that share a host. */
function slurmPort(env: Environment): number {
  const job = wholeFrom(env, 'SLURM_JOB_ID') ?? wholeFrom(env, 'SLURM_JOBID') ?? 0;
  const step = wholeFrom(env, 'SLURM_STEP_ID') ?? 0;
  return 15_000 + ((job * 31 + step) % 17_000);
}

function portFrom(env: Environment): number | null {
  const port = wholeFrom(env, 'MASTER_PORT');
  if (port === null || (port >= 1 && port <= 65_535)) return port;
  throw new HadalError('HADAL_ERR_CONFIG', `[dist] expected a port from 1 to 65535 in MASTER_PORT, got ${port}`);
}

function wholeFrom(env: Environment, name: string): number | null {
  const text = env[name];
  if (text === undefined) return null;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new HadalError('HADAL_ERR_CONFIG', `[dist] expected a whole number in ${name}, got '${text.slice(0, 80)}'`);
}

function missing(name: string, because: string, advice: string): HadalError {
  return new HadalError('HADAL_ERR_CONFIG', `[dist] expected ${name} beside ${because}, got none; ${advice}`);
}
