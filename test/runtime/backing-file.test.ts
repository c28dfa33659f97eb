// Tensors in a file: what they hold, what becomes of the file, and directories that will not do.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { BackingFile } from '../../src/runtime/backing-file.js';
import { expectHadalError, testDevice } from '../support/op-case.js';
import { residentFileBytes } from '../support/resident.js';

const directory = mkdtempSync(join(tmpdir(), 'hadal-backing-file-'));
afterAll(() => rmSync(directory, { recursive: true }));

const root = fileURLToPath(new URL('../..', import.meta.url));
/** A script that has allocated 1 MiB in a file in the directory. */
const script = `
  import { BackingFile } from './dist/runtime/backing-file.js';
  import { openDevice } from './dist/runtime/device.js';
  const file = new BackingFile(${JSON.stringify(directory)});
  const device = openDevice('cpu', { threads: 1 });
  const tensor = device.allocate([1 << 18], 'fp32', { file });
  await tensor.write(new Float32Array(1 << 18).fill(1));
`;

describe.runIf(process.platform === 'linux')('tensors in a file', () => {
  it('are zero, hold what is written, and do not meet', async () => {
    using file = new BackingFile(directory);
    const device = testDevice();
    const sizes = [1, 0, 5000, 1024];
    const tensors = sizes.map((size) => device.allocate([size], 'fp32', { file }));
    for (const tensor of tensors) expect((await tensor.toFloat32()).every((x) => x === 0)).toBe(true);
    for (const [i, tensor] of tensors.entries()) await tensor.write(new Float32Array(tensor.size).fill(i + 1));
    // Another one's end takes nothing with it.
    tensors[1]?.dispose();
    tensors[3]?.dispose();
    using late = device.allocate([3], 'fp32', { file });
    expect([...(await late.toFloat32())]).toEqual([0, 0, 0]);
    for (const i of [0, 2]) expect((await tensors[i]?.toFloat32())?.every((x) => x === i + 1)).toBe(true);
    for (const tensor of tensors) tensor.dispose();
  });

  it('outlive the handle of the file', async () => {
    const file = new BackingFile(directory);
    using tensor = testDevice().allocate([2], 'fp32', { file });
    await tensor.write(Float32Array.of(1, 2));
    file.dispose();
    file.dispose();
    expect([...(await tensor.toFloat32())]).toEqual([1, 2]);
    expectHadalError(() => testDevice().allocate([2], 'fp32', { file }), 'HADAL_ERR_IO', /disposed/);
  });

  it('leave memory after they were written and read from outside', async () => {
    using file = new BackingFile(directory);
    const numbers = new Float32Array(4 * 2 ** 20).fill(3);
    using tensor = testDevice().allocate([numbers.length], 'fp32', { file });
    const before = residentFileBytes();
    await tensor.write(numbers);
    expect(residentFileBytes() - before).toBeLessThan(numbers.byteLength / 8);
    await tensor.read(numbers);
    expect(residentFileBytes() - before).toBeLessThan(numbers.byteLength / 8);
  });

  it('are gone with the process, however it ends', async () => {
    const child = spawn(
      process.execPath,
      ['--input-type=module', '-e', `${script} console.log('ready'); setInterval(() => {}, 1000);`],
      {
        cwd: root,
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    await once(child.stdout, 'data');
    const open = readdirSync(`/proc/${child.pid}/fd`).map((name) => readlinkSync(`/proc/${child.pid}/fd/${name}`));
    expect(open.filter((target) => target.startsWith(directory) && target.endsWith('(deleted)'))).toHaveLength(1);
    expect(readdirSync(directory)).toEqual([]);
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(readdirSync(directory)).toEqual([]);
  });

  it('give the disk its room back one by one', async () => {
    using file = new BackingFile(directory);
    const blocks = async () => {
      const { stdout } = await promisify(execFile)('sh', [
        '-c',
        `for fd in /proc/${process.pid}/fd/*; do case $(readlink $fd) in ${directory}/*) stat -L -c %b $fd;; esac; done`,
      ]);
      return Number(stdout);
    };
    const tensor = testDevice().allocate([2 ** 20], 'fp32', { file });
    const taken = await blocks();
    tensor.dispose();
    expect(taken * 512).toBeGreaterThanOrEqual(4 * 2 ** 20);
    expect((await blocks()) * 512).toBeLessThan(2 ** 20);
  });
});

describe.runIf(process.platform === 'linux')('a directory', () => {
  it('that is not there, or is a file, is refused', () => {
    expectHadalError(
      () => new BackingFile(join(directory, 'nowhere')),
      'HADAL_ERR_IO',
      /\[offload\] expected to make a file in '.*nowhere', got: No such file or directory; choose another directory/,
    );
    writeFileSync(join(directory, 'plain'), '');
    expectHadalError(() => new BackingFile(join(directory, 'plain')), 'HADAL_ERR_IO', /Not a directory/);
    rmSync(join(directory, 'plain'));
  });

  it('on a disk without room is refused before anything is written', () => {
    using file = new BackingFile(directory);
    expectHadalError(
      () => testDevice().allocate([2 ** 48], 'fp32', { file }),
      'HADAL_ERR_IO',
      /\[offload\] expected room for 1073741824.0 MiB in '.*', got: No space left on device; choose another directory/,
    );
  });

  it('in which files may not grow is refused, and the process goes on', async () => {
    const grow = `${script}
      try { device.allocate([1 << 24], 'fp32', { file }); } catch (error) { console.log(error.code, error.message); }
      console.log((await tensor.toFloat32()).every((x) => x === 1));`;
    const command = ['ulimit -f 4096; exec "$0" "$@"', process.execPath, '--input-type=module', '-e', grow];
    const { stdout } = await promisify(execFile)('bash', ['-c', ...command], { cwd: root });
    expect(stdout).toMatch(/HADAL_ERR_IO \[offload\] expected room for 64.0 MiB.*File too large/);
    expect(stdout).toMatch(/true\n$/);
  });
});
