import type { MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { type ErrorCode, HadalError } from '../core/errors.js';

/** What a worker's task sends back. Errors travel as plain data: structured cloning would strip class and code. */
export type WorkerResult<T> =
  | { readonly value: T }
  | { readonly error: { readonly code: ErrorCode; readonly message: string } };

/** Runs a worker's task. Errors that are not ours are thrown on. */
export async function toWorkerResult<T>(run: () => T | Promise<T>): Promise<WorkerResult<T>> {
  try {
    return { value: await run() };
  } catch (error) {
    if (error instanceof HadalError) return { error: { code: error.code, message: error.message } };
    throw error;
  }
}

/** Piscina worker threads running the functions of one compiled file, each of which answers with a {@link WorkerResult}. */
export class WorkerPool implements AsyncDisposable {
  private readonly pool: Piscina;

  /** @param workerData - given to every worker once, at its start */
  constructor(url: URL, threads: number, workerData?: unknown) {
    this.pool = new Piscina({ filename: url.href, minThreads: 1, maxThreads: threads, workerData });
  }

  /** Calls the exported function `name`. @throws what it threw; HadalError with its code */
  async run<T>(name: string, task: unknown, transferList: (MessagePort | ArrayBuffer)[] = []): Promise<T> {
    const result = (await this.pool.run(task, { name, transferList })) as WorkerResult<T>;
    if ('value' in result) return result.value;
    throw new HadalError(result.error.code, result.error.message);
  }

  /** Ends the threads, also amidst their tasks. */
  async [Symbol.asyncDispose](): Promise<void> {
    // An answer that was already on its way finds its task gone, which Piscina reports as an error.
    this.pool.on('error', () => {});
    await this.pool.destroy();
  }
}
