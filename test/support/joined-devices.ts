// Several devices of one process that compute together: each is a rank of a group, over NCCL's stand-in or over Gloo.
import path from 'node:path';
import { addonFile, type NativeProcessGroup } from '../../src/addon/addon.js';
import type { MeshAxis } from '../../src/core/mesh.js';
import { openProcessGroup } from '../../src/dist/process-group.js';
import { type Device, openDevice } from '../../src/runtime/device.js';
import { testDeviceName } from './op-case.js';

/** NCCL's stand-in, which is built beside the native binary. */
export const ncclStandIn = () => path.join(path.dirname(addonFile()), 'hadal-nccl-sim.so');

/** Gives each rank's address to all of them, once every rank has called it. */
export function addressExchange(size: number): (rank: number, address: Uint8Array) => Promise<Uint8Array[]> {
  const addresses: Uint8Array[] = [];
  const waiting: ((addresses: Uint8Array[]) => void)[] = [];
  return (rank, address) =>
    new Promise((resolve) => {
      addresses[rank] = address;
      waiting.push(resolve);
      if (waiting.length === size) for (const each of waiting) each(addresses);
    });
}

export interface JoinedDevices extends Disposable {
  readonly devices: readonly Device[];
  readonly groups: readonly NativeProcessGroup[];
  /** Runs the work of all ranks at once and waits for all of them; the first failure is thrown then. */
  all<T>(work: (device: Device, rank: number) => Promise<T>): Promise<T[]>;
}

/**
 * Opens `size` devices of one thread each and joins them as an axis of the mesh. A collective of one waits until all of them
 * have come to it, so that what they run is to be started on all: {@link JoinedDevices.all}.
 */
export async function joinedDevices(
  size: number,
  {
    axis = 'dp' as MeshAxis,
    threads = 1,
    timeout = 20,
    backend = 'nccl' as 'gloo' | 'nccl',
    device = testDeviceName,
  } = {},
): Promise<JoinedDevices> {
  // Devices of their own: a simulated GPU, too, waits for its own streams alone.
  const devices = Array.from({ length: size }, (_, rank) =>
    openDevice(device === 'cpu' ? 'cpu' : `${device}:${rank}`, { threads }),
  );
  const exchange = addressExchange(size);
  const groups = await Promise.all(
    devices.map((_, rank) =>
      openProcessGroup({
        backend,
        ...(backend === 'nccl' ? { library: ncclStandIn() } : {}),
        rank,
        size,
        timeout,
        exchange: (address) => exchange(rank, address),
      }),
    ),
  );
  for (const [rank, device] of devices.entries()) device.setGroup(axis, groups[rank] ?? null);
  return {
    devices,
    groups,
    async all(work) {
      const results = await Promise.allSettled(devices.map(work));
      return results.map((result) => {
        if (result.status === 'rejected') throw result.reason;
        return result.value;
      });
    },
    [Symbol.dispose]() {
      for (const device of devices) device.dispose();
      for (const group of groups) group.dispose();
    },
  };
}
