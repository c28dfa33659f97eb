// What launchers say in the environment.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { firstNode, placeFrom, tokenFrom } from '../../src/dist/environment.js';

const master = { MASTER_ADDR: 'box0', MASTER_PORT: '4000' };
const place = { kind: 'static', rank: 3, size: 8, localRank: 1, localSize: 2, host: 'box0', port: 4000 };

test.each<[string, Record<string, string>, object | null]>([
  ['nothing', {}, null],
  ['one process', { RANK: '0', WORLD_SIZE: '1' }, null],
  [
    'torchrun',
    { RANK: '3', WORLD_SIZE: '8', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', ...master },
    { ...place, launcher: 'RANK and WORLD_SIZE' },
  ],
  [
    'a PyTorchJob of one process a pod',
    { RANK: '3', WORLD_SIZE: '8', PET_NNODES: '8', PET_NODE_RANK: '3', PET_NPROC_PER_NODE: '1', ...master },
    { ...place, localRank: null, localSize: null },
  ],
  [
    'horovodrun',
    { HOROVOD_RANK: '3', HOROVOD_SIZE: '8', HOROVOD_LOCAL_RANK: '1', HOROVOD_LOCAL_SIZE: '2', ...master },
    { ...place, launcher: 'Horovod' },
  ],
  [
    'mpirun of Open MPI within a Slurm job',
    {
      OMPI_COMM_WORLD_RANK: '3',
      OMPI_COMM_WORLD_SIZE: '8',
      OMPI_COMM_WORLD_LOCAL_RANK: '1',
      OMPI_COMM_WORLD_LOCAL_SIZE: '2',
      SLURM_PROCID: '1',
      SLURM_NTASKS: '4',
      SLURM_STEP_ID: '0',
      ...master,
    },
    { ...place, launcher: 'Open MPI' },
  ],
  [
    'mpirun on one host needs no address',
    {
      OMPI_COMM_WORLD_RANK: '1',
      OMPI_COMM_WORLD_SIZE: '2',
      OMPI_COMM_WORLD_LOCAL_RANK: '1',
      OMPI_COMM_WORLD_LOCAL_SIZE: '2',
    },
    { rank: 1, size: 2, localRank: 1, localSize: 2, host: '127.0.0.1', port: 29500 },
  ],
  [
    'mpiexec of MPICH',
    { PMI_RANK: '3', PMI_SIZE: '8', MPI_LOCALRANKID: '1', MPI_LOCALNRANKS: '2', ...master },
    { ...place, launcher: 'PMI' },
  ],
  [
    'srun',
    {
      SLURM_JOB_ID: '4711',
      SLURM_STEP_ID: '0',
      SLURM_PROCID: '3',
      SLURM_NTASKS: '8',
      SLURM_LOCALID: '1',
      SLURM_NTASKS_PER_NODE: '2',
      SLURM_JOB_NODELIST: 'gpu[07-10],login',
    },
    { ...place, launcher: 'Slurm', host: 'gpu07', port: 15_000 + ((4711 * 31) % 17_000) },
  ],
  [
    'srun, its second step, on nodes that differ',
    {
      SLURM_JOB_ID: '4711',
      SLURM_STEP_ID: '1',
      SLURM_STEP_NUM_TASKS: '8',
      SLURM_STEP_TASKS_PER_NODE: '4(x1),2(x2)',
      SLURM_STEP_NODELIST: 'b3',
      SLURM_PROCID: '3',
      SLURM_NTASKS: '9',
      SLURM_LOCALID: '1',
      SLURM_JOB_NODELIST: 'a[1-3]',
    },
    { ...place, localSize: null, host: 'b3', port: 15_000 + ((4711 * 31 + 1) % 17_000) },
  ],
  [
    'srun that knows its host only',
    {
      SLURM_JOB_ID: '1',
      SLURM_STEP_ID: '0',
      SLURM_PROCID: '0',
      SLURM_NTASKS: '2',
      SLURM_LAUNCH_NODE_IPADDR: '10.0.0.1',
    },
    { rank: 0, size: 2, host: '10.0.0.1' },
  ],
  ['a batch script of Slurm, which is no step', { SLURM_PROCID: '0', SLURM_NTASKS: '8', SLURM_JOB_ID: '1' }, null],
  [
    'hadal launch within srun within mpirun',
    { HADAL_WORKER: '0.1.0', OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_SIZE: '2', SLURM_STEP_ID: '0', ...master },
    { kind: 'launched', worker: '0.1.0', host: 'box0', port: 4000 },
  ],
  [
    'torchrun within mpirun, one each host',
    {
      RANK: '3',
      WORLD_SIZE: '8',
      LOCAL_RANK: '1',
      LOCAL_WORLD_SIZE: '2',
      OMPI_COMM_WORLD_RANK: '1',
      OMPI_COMM_WORLD_SIZE: '4',
      ...master,
    },
    place,
  ],
])('%s', (_, env, expected) => {
  const got = placeFrom(env);
  if (expected) expect(got).toMatchObject(expected);
  else expect(got).toBeNull();
});

test.each<[string, Record<string, string>, RegExp]>([
  ['a rank without a size', { RANK: '0' }, /expected WORLD_SIZE beside RANK/],
  ['a size without a rank', { WORLD_SIZE: '2' }, /expected RANK beside WORLD_SIZE/],
  ['no address', { RANK: '0', WORLD_SIZE: '2' }, /expected MASTER_ADDR/],
  ['a rank beyond the size', { RANK: '2', WORLD_SIZE: '2', ...master }, /a rank below 2 by RANK and WORLD_SIZE, got 2/],
  ['no processes', { RANK: '0', WORLD_SIZE: '0', ...master }, /at least one process/],
  ['not a number', { RANK: '-1', WORLD_SIZE: '2', ...master }, /whole number in RANK, got '-1'/],
  ['a port that is none', { RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: 'a', MASTER_PORT: '70000' }, /MASTER_PORT/],
  [
    'a local rank beyond its size',
    { RANK: '0', WORLD_SIZE: '4', LOCAL_RANK: '2', LOCAL_WORLD_SIZE: '2', ...master },
    /a local rank below 2/,
  ],
  [
    'more on a host than there are',
    { RANK: '0', WORLD_SIZE: '2', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '4', ...master },
    /1 to 2 processes on this host.*got 4/,
  ],
  [
    'RANK set by hand for all',
    { RANK: '0', WORLD_SIZE: '2', OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2', ...master },
    /rank 0 of 2 by RANK and WORLD_SIZE and rank 1 of 2 by Open MPI/,
  ],
  [
    'a PyTorchJob of several processes a pod',
    { RANK: '1', WORLD_SIZE: '8', PET_NNODES: '4', PET_NPROC_PER_NODE: '2', ...master },
    /hadal launch in each pod/,
  ],
  ['a TrainJob without a launcher', { PET_NNODES: '4', PET_NODE_RANK: '1' }, /hadal launch in each pod/],
  ['srun without a number of tasks', { SLURM_STEP_ID: '0', SLURM_PROCID: '0' }, /SLURM_NTASKS/],
  ['hadal launch without an address', { HADAL_WORKER: '0.0.0' }, /MASTER_ADDR/],
])('%s is refused', (_, env, message) => {
  expect(() => placeFrom(env)).toThrow(message);
});

const names = [
  ...['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'HADAL_WORKER'],
  ...['OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'PMI_RANK', 'PMI_SIZE', 'HOROVOD_RANK', 'HOROVOD_SIZE'],
  ...['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_STEP_ID', 'SLURM_LOCALID', 'SLURM_JOB_NODELIST', 'SLURM_NTASKS_PER_NODE'],
  ...['SLURM_JOB_ID', 'SLURM_STEP_TASKS_PER_NODE', 'PET_NPROC_PER_NODE', 'PET_NNODES'],
];
const value = fc.oneof(fc.nat({ max: 9 }).map(String), fc.string(), fc.constantFrom('n[1-3]', '4(x2)', 'auto', ''));

test('whatever the variables are, a place makes sense or the error is ours', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.constantFrom(...names), value), (env) => {
      try {
        const got = placeFrom(env);
        if (got?.kind !== 'static') return;
        expect(got.rank).toBeLessThan(got.size);
        expect(got.localRank ?? 0).toBeLessThan(got.localSize ?? got.size);
        expect(got.host).not.toBe('');
        expect(got.port).toBeGreaterThan(0);
      } catch (error) {
        if (!(error instanceof HadalError)) throw error;
        expect(error.code).toBe('HADAL_ERR_CONFIG');
      }
    }),
    { numRuns: 2000 },
  );
});

test('the first of a list of nodes', () => {
  expect(['a', 'a,b', 'a[1-3]', 'a[007-9,12],b', 'rack[1-2]n[03,05]', 'a-[2,4]x'].map(firstNode)).toEqual([
    ...['a', 'a', 'a1', 'a007', 'rack1n03', 'a-2x'],
  ]);
  for (const bad of ['', ',a', 'a[', 'a[1', '[]']) expect(() => firstNode(bad)).toThrow(/list of Slurm nodes/);
});

test('a token must be there, and be one', () => {
  expect(tokenFrom({ HADAL_TOKEN: '0123456789abcdef' })).toBe('0123456789abcdef');
  expect(() => tokenFrom({})).toThrow(/got none; .*openssl rand/);
  expect(() => tokenFrom({ HADAL_TOKEN: 'short' })).toThrow(/got 5 characters/);
});
