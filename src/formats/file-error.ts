import { HadalError } from '../core/errors.js';

const reasons: Record<string, string> = {
  ENOENT: 'no such file or directory; check the path',
  ENOSPC: 'no space left on the device; free some or choose another directory',
  EDQUOT: 'the disk quota is used up; free some space or choose another directory',
  EROFS: 'a read-only file system; choose a directory that can be written',
  EACCES: 'permission denied; check the owner and mode of the path',
  EPERM: 'operation not permitted; check the owner and mode of the path',
  EEXIST: 'a file of that name; choose another path',
  ENOTDIR: 'a file where a directory is needed; check the path',
  EISDIR: 'a directory where a file is needed; check the path',
  EMFILE: 'too many open files; raise `ulimit -n`',
  EFBIG: 'a file larger than the file system or `ulimit -f` allows',
};

/**
 * Turns an error of a file operation into a HadalError HADAL_ERR_IO; a HadalError and anything that is not a system
 * error stay as they are.
 *
 * @param doing - completes "expected to …", for example `write /data/x.bin`
 */
export function fileError(error: unknown, doing: string): unknown {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (error instanceof HadalError || typeof code !== 'string' || !/^E[A-Z0-9]+$/.test(code)) return error;
  return new HadalError(
    'HADAL_ERR_IO',
    `[file] expected to ${doing}, got ${code}: ${reasons[code] ?? (error as Error).message}`,
    {
      cause: error,
    },
  );
}

/** Runs a file operation; its system errors become HADAL_ERR_IO. */
export async function withFileErrors<T>(doing: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw fileError(error, doing);
  }
}
