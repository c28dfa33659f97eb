// Signs of life from a thread of their own: they do not wait for what the main thread is busy with.
import { parentPort, workerData } from 'node:worker_threads';
import { type HeartbeatOptions, startHeartbeat } from './heartbeat.js';

const tell = (reason: string): void => parentPort?.postMessage(reason);
startHeartbeat(workerData as HeartbeatOptions, tell).catch((error: Error) => tell(error.message));
