// A small file system of its own, where that is permitted.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Mounts one in memory; null where only root may. @param options - of mount: `ro`, `size=640k` */
export function mount(options: string): { path: string; [Symbol.dispose](): void } | null {
  const path = mkdtempSync(join(tmpdir(), 'hadal-mount-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], { stdio: 'ignore' });
  } catch {
    rmSync(path, { recursive: true });
    return null;
  }
  return {
    path,
    [Symbol.dispose]: () => {
      execFileSync('umount', [path]);
      rmSync(path, { recursive: true });
    },
  };
}

/** Leaves no room in the file system of a file, which it makes. */
export function fill(path: string): void {
  for (let bytes = 2 ** 20; bytes >= 4096; ) {
    const { bavail, bsize } = statfsSync(join(path, '..'));
    if (bavail === 0) return;
    try {
      writeFileSync(path, new Uint8Array(Math.min(bytes, bavail * bsize)), { flag: 'a' });
    } catch {
      bytes /= 2;
    }
  }
}
