// What programs are planned for.

/** Kinds of devices, by the library that holds their kernels. */
export type BackendName = 'cpu' | 'cuda' | 'cuda-sim';

/** What a plan depends on beside the graph: plain data, so that a worker can plan. */
export interface DeviceTarget {
  backend: BackendName;
  /** Threads of a processor, multiprocessors of a GPU; workspaces depend on it. */
  threads: number;
  /** Kernels that this device is not to be trusted with: ops that use them are spelled out. */
  without: readonly string[];
}

/** A device's target; a number is that many threads of the processor. */
export type Target = number | DeviceTarget;

/** Spells out a number of threads. */
export const targetOf = (target: Target): DeviceTarget =>
  typeof target === 'number' ? { backend: 'cpu', threads: target, without: [] } : target;
