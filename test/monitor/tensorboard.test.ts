import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TensorboardWriter, tensorboardListener } from '../../src/monitor/tensorboard.js';
import type { TrainEvent } from '../../src/train/events.js';
import { fill, mount } from '../support/mounted.js';
import { end, start, step } from './events.js';

const scalars: [number, string, number][] = [
  [1, 'train/loss', 8.5],
  [2, 'train/loss', 0.1],
  [300, 'eval/loss', 3.25],
  [2 ** 40 + 7, 'train/lr', 1e-20],
];

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'hadal-tensorboard-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function write(wanted: [number, string, number][], resumeStep?: number): string {
  using writer = TensorboardWriter.open(dir, {
    wallTime: 1700000000.25,
    ...(resumeStep === undefined ? {} : { resumeStep }),
  });
  for (const [at, tag, value] of wanted) writer.scalar(at, tag, value, 1700000001.5);
  return writer.path;
}

const golden = readFileSync(new URL('./tensorboard.golden', import.meta.url));

describe('event file', () => {
  it('is byte for byte what TensorBoard itself writes', () => {
    expect(readFileSync(write(scalars))).toEqual(golden);
  });

  it('goes on after the step resumed from, whatever lies beyond', () => {
    write(scalars.slice(0, 2));
    const path = write([[3, 'train/loss', 99]], 2);
    write(scalars.slice(2), 2);
    expect(readdirSync(dir)).toHaveLength(1);
    expect(readFileSync(path)).toEqual(golden);
  });

  it('drops a record that was cut short or damaged', () => {
    const path = write(scalars.slice(0, 2));
    const whole = statSync(path).size;
    appendFileSync(path, golden.subarray(whole, whole + 20));
    write(scalars.slice(2), 1000);
    expect(readFileSync(path)).toEqual(golden);
    const damaged = Buffer.from(golden);
    damaged[whole + 15] = (damaged[whole + 15] as number) ^ 1;
    writeFileSync(path, damaged);
    write(scalars.slice(2), 2 ** 50);
    expect(readFileSync(path)).toEqual(golden);
  });

  it('waits for room on a full disk, and misses nothing', (context) => {
    using mounted = mount('size=64k');
    if (!mounted) return context.skip('a small file system can be mounted by root alone');
    const [runs, filler] = [join(mounted.path, 'runs'), join(mounted.path, 'filler')];
    using writer = TensorboardWriter.open(runs, { wallTime: 1700000000.25 });
    writer.flush();
    fill(filler);
    const numbers = Array.from({ length: 300 }, (_, i) => i);
    for (const i of numbers) {
      writer.scalar(i, 'train/loss', 1 / (i + 1), 1700000001.5);
      writer.flush();
    }
    const { size } = statSync(writer.path);
    rmSync(filler);
    writer.flush();
    expect(statSync(writer.path).size).toBeGreaterThan(size);
    const path = write(numbers.map((i) => [i, 'train/loss', 1 / (i + 1)]));
    expect(readFileSync(writer.path)).toEqual(readFileSync(path));
  });

  it('says which directory cannot be written', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(() => TensorboardWriter.open(join(dir, 'file', 'runs'))).toThrow(
      /\[tensorboard\] expected to write .*ENOTDIR/,
    );
  });
});

it('a run that goes back begins there anew', () => {
  const write = (events: TrainEvent[]) => {
    const runDir = join(dir, String(events.length));
    using board = tensorboardListener();
    for (const event of [start({ runDir, step: 0 }), ...events, end()]) board.listen(event);
    const [file] = readdirSync(runDir);
    return tagsOf(readFileSync(join(runDir, file as string)));
  };
  const [one, two, other] = [step({ step: 1 }), step({ step: 2 }), step({ step: 2, loss: 3 })];
  const straight = write([one, other]);
  expect(write([one, two, { type: 'rollback', from: 2, step: 1 }, other])).toEqual(straight);
});

/** Every record without its wall time: what it is of. */
function tagsOf(file: Buffer): string[] {
  const found: string[] = [];
  for (let at = 0; at < file.length; ) {
    const bytes = Number(file.readBigUInt64LE(at));
    found.push(file.toString('latin1', at + 12 + 9, at + 12 + bytes));
    at += bytes + 16;
  }
  return found;
}

const python = process.env.HADAL_PYTHON ?? 'python3';
const hasReader = spawnSync(python, ['-c', 'import tensorboard']).status === 0;

it.skipIf(!hasReader)(
  "a run's numbers are what TensorBoard's reader finds (skipped without Python's tensorboard; HADAL_PYTHON names one)",
  () => {
    using board = tensorboardListener();
    for (const event of [
      start({ runDir: dir, step: 0 }),
      step({ step: 1, loss: 4.5 }),
      step({ step: 2, loss: 2.25, mtpLoss: null }),
      end(),
    ]) {
      board.listen(event);
    }
    const script = new URL('./read-events.py', import.meta.url).pathname;
    const { stdout, stderr } = spawnSync(python, [script, dir], { encoding: 'utf8' });
    const found = JSON.parse(stdout || `"${stderr}"`) as [string, number, number][];
    expect(found.filter(([tag]) => tag === 'train/loss')).toEqual([
      ['train/loss', 1, 4.5],
      ['train/loss', 2, 2.25],
    ]);
    expect(found.filter(([tag]) => tag === 'train/mtp_loss').map(([, at]) => at)).toEqual([1]);
  },
);
