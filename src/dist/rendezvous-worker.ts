// Hosts the run of processes that no launcher of ours started, beside rank 0: a thread that its main thread does not hold up.
import { parentPort, workerData } from 'node:worker_threads';
import { debug } from '../core/env.js';
import { Rendezvous, type RendezvousOptions } from './rendezvous.js';

/** Its answer when it listens, or why it does not. */
export type HostAnswer = { error: string | null };

/** How long it waits for the others to leave, once its own process has. */
const leaveMs = 10_000;

async function host(): Promise<void> {
  const log = (line: string): void => debug(1, () => `rendezvous: ${line}`);
  const rendezvous = await Rendezvous.open({ ...(workerData as RendezvousOptions), log });
  parentPort?.once('message', async () => {
    await rendezvous.settled(leaveMs);
    await rendezvous[Symbol.asyncDispose]();
    parentPort?.close();
  });
}

const answer = (error: string | null): void => parentPort?.postMessage({ error } satisfies HostAnswer);
host().then(
  () => answer(null),
  (error: Error) => answer(error.message),
);
