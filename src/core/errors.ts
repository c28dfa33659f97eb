/** Stable error codes. The number is the exit status the command line ends with. */
export const errorCodes = {
  HADAL_ERR_USAGE: 2, // a command line that cannot be understood
  HADAL_ERR_CONFIG: 2, // a configuration that cannot work
  HADAL_ERR_MEMORY: 2, // a run that cannot fit
  HADAL_ERR_LOCKED: 2, // another process owns the run directory
  HADAL_ERR_IO: 2, // the machine refuses a file operation (read-only, no space)
  HADAL_ERR_DATA: 3, // damaged or unusable input data
  HADAL_ERR_FORMAT: 3, // a file that breaks its own format
  HADAL_ERR_CHECKPOINT: 3, // a damaged or unfitting checkpoint
  HADAL_ERR_SHAPE: 1, // tensors that do not fit together
  HADAL_ERR_DTYPE: 1, // a number format an op does not take
  HADAL_ERR_DEVICE: 1, // a device that is not there
  HADAL_ERR_NATIVE: 1, // the native binary is missing or refused a call
  HADAL_ERR_DISPOSED: 1, // a handle used after dispose()
  HADAL_ERR_RUN: 1, // the run itself failed
  HADAL_ERR_COMM: 1, // another process of the run is gone, silent or a stranger
  HADAL_ERR_NUMERICS: 1, // a number that is not finite, and where it came from
  HADAL_ERR_ABORTED: 130, // interrupted, after saving what there was
  HADAL_ERR_INTERNAL: 1, // our own bug
} as const;

/** One of the stable codes of {@link errorCodes}. */
export type ErrorCode = keyof typeof errorCodes;

/**
 * The one error class of hadal. The message says what was expected, what was found and, where known, what to do:
 * `[op or part] expected X, got Y; do Z`.
 */
export class HadalError extends Error {
  override readonly name = 'HadalError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }

  /** Exit status of a command that ends with this error. */
  get exitStatus(): number {
    return errorCodes[this.code];
  }
}

/** Guards against our own bugs; never for user input. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new HadalError('HADAL_ERR_INTERNAL', `[hadal] internal error: ${message}; please report it`);
}
