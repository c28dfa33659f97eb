import { type ErrorCode, HadalError } from '../core/errors.js';

/** What a worker thread sends back. Errors travel as plain data: structured cloning would strip their class and code. */
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

/** The value, or the worker's error thrown here. */
export function fromWorkerResult<T>(result: WorkerResult<T>): T {
  if ('value' in result) return result.value;
  throw new HadalError(result.error.code, result.error.message);
}
