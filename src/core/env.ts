/** Environment variables hadal looks at, and what they do; `hadal doctor` lists them. */
export const envFlags = {
  HADAL_DEBUG: '1: phases and plans, 2: also times per op, 3: also graphs after each pass (on stderr)',
  HADAL_VERIFY: '1: check the graph after every pass',
  HADAL_NATIVE: 'path of the native binary to load',
  HADAL_ISA: 'portable, avx2, avx512 or avx512bf16: the most that kernels may use',
  HADAL_NO_ONEDNN: '1: our own products instead of oneDNN',
  HADAL_CUDA_GRAPHS: '0: launch every kernel of a step, replay no CUDA graph',
  HADAL_CUDA_SYNC: '1: wait after each kernel, so that an error names the one at fault',
  HADAL_CUDA_SELFTEST: '0: do not test a GPU before its first use; 1: test it each time, also the simulated one',
  HADAL_CUBLASLT: 'path of libcublasLt.so, or none: our own products on GPUs',
  HADAL_SIM_ORDER: 'of cuda-sim, the order in which threads run: forward, reverse or random:<seed>',
  HADAL_NCCL: 'path of libnccl.so.2, where the system does not find it',
  HADAL_COMM_HIERARCHY:
    'sums over processes in two levels, inside boxes and across: auto, off, or bytes from which on; docs/networks.md',
  HADAL_TRUST_PATTERNS: '1: take every pattern of a tokenizer.json, also one that may hang',
  HADAL_NO_APT: '1: set-up installs no system packages',
  HADAL_TOKEN: 'secret of a run of several processes, the same for all of them',
  HADAL_COMM_INTERFACE:
    'network interface, or address of this host, by which the other processes of a run reach this one',
  HADAL_ROLE: 'server or worker, in a run with a parameter server',
  HADAL_SERVER: 'host:port of that server',
  HADAL_PROCESSORS: 'processors to use; hadal launch gives each process its share',
} as const;

/** Level of a numeric flag; 0 when unset. */
export function envFlag(name: keyof typeof envFlags): number {
  return Number.parseInt(process.env[name] ?? '0', 10) || 0;
}

/** Writes a line to stderr when `HADAL_DEBUG` is at least `level`. The text is only made when it is wanted. */
export function debug(level: number, text: () => string): void {
  if (envFlag('HADAL_DEBUG') >= level) process.stderr.write(`[hadal] ${text()}\n`);
}
