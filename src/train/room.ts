import { memoryRoom, residentBytes } from '../core/memory.js';
import type { Device } from '../runtime/device.js';
import { growthInTraining } from './memory.js';

/** Memory where a run computes: the host's, or a GPU's own. */
export interface Room {
  /** Bytes still to be had. */
  available: number;
  /** Bytes that the process has now, beside what will be planned. */
  resident: number;
  /** Bytes that it grows by in training, beside what is planned. */
  growth: number;
  /** Processes that share what is available. */
  processes: number;
}

/** @param processes - of this host */
export function roomOf(device: Device, processes: number): Room {
  if (device.target.backend === 'cpu') {
    const { available } = memoryRoom();
    return { available, resident: residentBytes().now, growth: growthInTraining, processes };
  }
  const { live, free } = device.native.memory();
  return { available: free, resident: live, growth: 0, processes: 1 };
}
