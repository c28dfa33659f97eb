import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TensorboardWriter, tensorboardListener } from '../../src/monitor/tensorboard.js';
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

  it('says which directory cannot be written', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(() => TensorboardWriter.open(join(dir, 'file', 'runs'))).toThrow(
      /\[tensorboard\] expected to write .*ENOTDIR/,
    );
  });
});

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
