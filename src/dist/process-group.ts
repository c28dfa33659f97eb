// Process groups: made alone, joined by what the members tell each other.
import { loadAddon, type NativeProcessGroup, type NativeProcessGroupOptions } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';

/** What {@link openProcessGroup} joins a group by. */
export interface ProcessGroupOptions extends Omit<NativeProcessGroupOptions, 'timeoutMs'> {
  /** Seconds that a collective waits for the others, and connecting does. */
  timeout: number;
  /** Ends the waiting for the others. */
  signal?: AbortSignal;
  /** Gives the others this rank's address, and all ranks' in their order. */
  exchange(address: Uint8Array): Promise<Uint8Array[]>;
}

/**
 * This process's member of a group, connected with all others. A group of some ranks only (an axis of a mesh) is one of its
 * own: its members alone call this, with ranks among themselves.
 *
 * @throws HadalError HADAL_ERR_COMM where the backend's library cannot be opened, with what to install, and where ranks do not
 *   come, naming them
 */
export async function openProcessGroup({
  timeout,
  exchange,
  signal,
  ...options
}: ProcessGroupOptions): Promise<NativeProcessGroup> {
  const made = attempt(() => new (loadAddon().ProcessGroup)({ ...options, timeoutMs: Math.ceil(timeout * 1000) }));
  const group = await made;
  const stop = (): void => group.abort('[comm] the round ended before all ranks were connected');
  signal?.addEventListener('abort', stop, { once: true });
  try {
    const addresses = await exchange(group.address);
    await attempt(() => group.connect(addresses));
    return group;
  } catch (error) {
    group.dispose();
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

async function attempt<T>(work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if ((error as Error).message.startsWith('[comm]')) {
      throw new HadalError('HADAL_ERR_COMM', (error as Error).message, { cause: error });
    }
    throw error;
  }
}
