// Signs of life of a process, and of the one that hosts the run.
import { StoreClient } from './store-client.js';

export interface HeartbeatOptions {
  host: string;
  port: number;
  token: string;
  /** Name of the process. */
  of: string;
  /** Silence after which a side counts as lost. */
  heartbeatMs: number;
}

/** Sends signs of life until it is disposed. @param onLost - told once when the host of the run is silent or gone */
export async function startHeartbeat(options: HeartbeatOptions, onLost: (reason: string) => void): Promise<Disposable> {
  const { of, heartbeatMs } = options;
  let isOver = false;
  const lost = (reason: string): void => {
    if (isOver) return;
    stop();
    onLost(reason);
  };
  const client = await StoreClient.connect({ ...options, waitMs: heartbeatMs, onClose: lost });
  const stop = (): void => {
    isOver = true;
    clearInterval(timer);
    client[Symbol.dispose]();
  };
  let lastMs = performance.now();
  let clockMs = lastMs;
  let heardMs = lastMs;
  const beat = (): void => {
    const now = performance.now();
    // While this process was stopped it could not have heard anything.
    clockMs += Math.min(now - lastMs, 2 * everyMs);
    lastMs = now;
    if (clockMs - heardMs > heartbeatMs) {
      lost(`nothing heard of it for ${heartbeatMs / 1000} s`);
      return;
    }
    client.request({ do: 'beat', of }).then(
      () => {
        heardMs = clockMs;
      },
      () => {}, // told by onClose
    );
  };
  const everyMs = Math.max(10, heartbeatMs / 5);
  const timer = setInterval(beat, everyMs);
  beat();
  return { [Symbol.dispose]: stop };
}
