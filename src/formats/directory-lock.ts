// The lock that keeps a second process out of a directory: a file that says who works there.
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { fileError } from './file-error.js';

/** A file is written at once after it was made: an empty one that is older has no owner. */
const writingMs = 1000;

/** Whose lock it is, for its message: `[part] … process 5 verb there; wait for it or give another fix`. */
interface LockUse {
  /** Name of the lock's file. */
  readonly file: string;
  readonly part: string;
  readonly verb: string;
  readonly fix: string;
}

/** Holds a directory until it is disposed of. A process that is killed leaves a lock that the next one takes over. */
export class DirectoryLock implements Disposable {
  readonly #path: string;
  readonly #content = `${process.pid} ${startOf(process.pid)}\n`;

  /** @throws HadalError HADAL_ERR_LOCKED while another one is in `dir`; HADAL_ERR_IO */
  constructor(
    readonly dir: string,
    private readonly use: LockUse,
  ) {
    this.#path = join(dir, use.file);
    try {
      while (!this.#make()) this.#takeAwayStale();
    } catch (error) {
      throw fileError(error, `lock ${dir}`);
    }
  }

  #make(): boolean {
    try {
      writeFileSync(this.#path, this.#content, { flag: 'wx' });
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
      throw error;
    }
  }

  #takeAwayStale(): void {
    const found = contentOf(this.#path);
    if (found === undefined) return; // gone in the meantime
    const owner = Number.parseInt(found, 10);
    const isBeingWritten = found === '' && Date.now() - statSync(this.#path).mtimeMs < writingMs;
    if (isBeingWritten || isAlive(found)) {
      const { part, verb, fix } = this.use;
      const who = isBeingWritten ? 'another process' : `process ${owner}`;
      throw new HadalError(
        'HADAL_ERR_LOCKED',
        `[${part}] expected to be alone in ${this.dir}, ${who} ${verb} there; wait for it or give another ${fix}`,
      );
    }
    // Moved, then looked at again: another process may have taken it over first.
    const aside = `${this.#path}.stale-${process.pid}`;
    renameSync(this.#path, aside);
    if (contentOf(aside) === found) rmSync(aside, { recursive: true });
    else renameSync(aside, this.#path);
  }

  /** Gives the directory free. */
  dispose(): void {
    if (contentOf(this.#path) === this.#content) rmSync(this.#path, { force: true });
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** undefined when there is no such file; '?' when it cannot be read as one. */
function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? undefined : '?';
  }
}

/** Whether the process that wrote a lock still runs; its number may have gone to another one since. */
function isAlive(content: string): boolean {
  const [pid = 0, start = ''] = [Number.parseInt(content, 10), content.trim().split(' ')[1]];
  if (!(pid > 0)) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  return start === '' || start === startOf(pid);
}

/** When a process began, in the kernel's clock ticks; '' where the system does not tell. */
function startOf(pid: number): string {
  const stat = contentOf(`/proc/${pid}/stat`) ?? '';
  // The name, second of the fields, is in parentheses and may hold spaces; the beginning is the 22nd.
  return (
    stat
      .slice(stat.lastIndexOf(')') + 1)
      .trim()
      .split(' ')[19] ?? ''
  );
}
