import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { withAtomicDirectory, withAtomicFile, writeFileAtomic } from '../../src/formats/atomic-file.js';
import { verifyManifest, writeManifest } from '../../src/formats/manifest.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-atomic-'));
});
afterEach(() => rm(dir, { recursive: true }));

const isRoot = process.getuid?.() === 0;

describe('writeFileAtomic', () => {
  it('replaces a file and leaves nothing beside it', async () => {
    const path = join(dir, 'new/a.txt');
    await writeFileAtomic(path, 'one');
    await writeFileAtomic(path, Uint8Array.of(50));
    expect(await readFile(path, 'utf8')).toBe('2');
    expect(await readdir(join(dir, 'new'))).toEqual(['a.txt']);
  });

  it('keeps the old file when filling fails', async () => {
    const path = join(dir, 'a.txt');
    await writeFileAtomic(path, 'old');
    const failing = withAtomicFile(path, async (handle) => {
      await handle.writeFile('half');
      throw new Error('stop');
    });
    await expect(failing).rejects.toThrow('stop');
    expect(await readFile(path, 'utf8')).toBe('old');
    expect(await readdir(dir)).toEqual(['a.txt']);
  });

  it('says clearly that the device is full', async (context) => {
    if (!existsSync('/dev/full')) return context.skip('no /dev/full on this system');
    const full = withAtomicFile(join(dir, 'a'), async () => writeFile('/dev/full', 'x'));
    await expect(full).rejects.toMatchObject({
      code: 'HADAL_ERR_IO',
      message: expect.stringContaining('no space left'),
    });
  });

  it('says clearly that a directory cannot be written', async (context) => {
    if (isRoot) return context.skip('root may write anywhere');
    await chmod(dir, 0o500);
    const denied = writeFileAtomic(join(dir, 'a'), 'x');
    await expect(denied).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    await chmod(dir, 0o700);
  });

  it('says clearly that a path leads through a file', async () => {
    await writeFile(join(dir, 'file'), '');
    await expect(writeFileAtomic(join(dir, 'file/a'), 'x')).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
  });

  it('removes what a dead writer left and keeps what a living one writes', async () => {
    const dead = spawnSync(process.execPath, ['-e', 'console.log(process.pid)']).stdout.toString().trim();
    const names = [`a.tmp-${dead}-0`, `a.tmp-${process.ppid}-0`, 'a.tmp-notes', `b.tmp-${dead}-0`];
    for (const name of names) await writeFile(join(dir, name), '');
    await writeFileAtomic(join(dir, 'a'), 'x');
    expect((await readdir(dir)).sort()).toEqual(['a', ...names.slice(1)].sort());
  });
});

describe('withAtomicDirectory', () => {
  it('appears whole', async () => {
    const target = join(dir, 'out');
    await withAtomicDirectory(target, async (temporary) => {
      await mkdir(join(temporary, 'sub'));
      await writeFile(join(temporary, 'sub/a'), 'x');
      expect(existsSync(target)).toBe(false);
    });
    expect(await readFile(join(target, 'sub/a'), 'utf8')).toBe('x');
    expect(await readdir(dir)).toEqual(['out']);
  });

  it('leaves nothing when filling fails', async () => {
    const failing = withAtomicDirectory(join(dir, 'out'), async (temporary) => {
      await writeFile(join(temporary, 'a'), 'x');
      throw new Error('stop');
    });
    await expect(failing).rejects.toThrow('stop');
    expect(await readdir(dir)).toEqual([]);
  });

  it('takes an empty directory but never one with contents', async () => {
    const target = join(dir, 'out');
    await mkdir(target);
    await withAtomicDirectory(target, (temporary) => writeFile(join(temporary, 'mine'), ''));
    const again = withAtomicDirectory(target, async () => {});
    await expect(again).rejects.toMatchObject({ code: 'HADAL_ERR_IO', message: expect.stringContaining("'mine'") });
    expect(await readdir(target)).toEqual(['mine']);
  });

  it('refuses two writers of one directory', async () => {
    const target = join(dir, 'out');
    const both = await Promise.allSettled([0, 1].map(() => withAtomicDirectory(target, async () => {})));
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  });
});

describe('manifest', () => {
  it('notices changed, cut and missing files', async () => {
    await mkdir(join(dir, 'sub'));
    await writeFile(join(dir, 'sub/a'), 'abc');
    await writeFile(join(dir, 'b'), '');
    const { files } = await writeManifest(dir);
    expect(files).toEqual([
      { path: 'b', bytes: 0, sha256: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' },
      { path: 'sub/a', bytes: 3, sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' },
    ]);
    expect(await verifyManifest(dir)).toEqual({ files });
    await writeFile(join(dir, 'sub/a'), 'abd');
    await verifyManifest(dir, { checksums: false });
    await expect(verifyManifest(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
    await writeFile(join(dir, 'sub/a'), 'ab');
    await expect(verifyManifest(dir, { checksums: false })).rejects.toThrow(/sub\/a of 3 bytes/);
    await rm(join(dir, 'sub/a'));
    await expect(verifyManifest(dir)).rejects.toThrow(/no such file/);
  });

  it('refuses paths that leave the directory', async () => {
    const sha256 = '0'.repeat(64);
    for (const path of ['../x', '/etc/passwd', 'a/../../b', 'C:\\x']) {
      await writeFile(join(dir, 'manifest.json'), JSON.stringify({ files: [{ path, bytes: 1, sha256 }] }));
      await expect(verifyManifest(dir)).rejects.toMatchObject({ code: 'HADAL_ERR_CHECKPOINT' });
    }
  });
});
