// What ends while work goes on must end well: no crash, no hang, the right exit status. In processes of their own.
// Every way amidst every work, thirty times: `npm run accept -- ending`.
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';

const child = fileURLToPath(new URL('./ending/child.mjs', import.meta.url));
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hadal-ending-'));
afterAll(() => rmSync(folder, { recursive: true }));

const works = ['step', 'forward', 'lossAndGradients', 'generate', 'train'];

/** Tries of each way; works take turns, so that two tries of each way are four or more of each work. */
const times = Number(process.env.HADAL_TEST_ENDINGS ?? 2);
const limitMs = 60_000;
const options = { timeout: Math.max(times, works.length) * limitMs };

interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  err: string;
}

/** Runs a process to its end; a hang is ended after a minute and shows as SIGKILL. */
function end(
  args: readonly string[],
  onOutput: (run: { kill(signal: NodeJS.Signals): void }, out: string) => void = () => {},
) {
  return new Promise<Ending>((resolve, reject) => {
    const { OMP_WAIT_POLICY: _, ...env } = process.env; // a worker cannot set it: as where nobody has
    const run = spawn(process.execPath, args, { env, timeout: limitMs, killSignal: 'SIGKILL' });
    let [out, err] = ['', ''];
    run.stdout.on('data', (text) => {
      out += text;
      onOutput(run, out);
    });
    run.stderr.on('data', (text) => (err += text));
    run.once('error', reject);
    run.once('close', (code, signal) => resolve({ code, signal, out, err }));
  });
}

const triesFrom = (first: number, count = times) =>
  Array.from({ length: count }, (_, i) => ({
    work: works[(first + i) % works.length] as string,
    // Moments spread over what a step takes.
    delayMs: `${((first + i) * 17) % 60}`,
  }));
/** For what goes on beside works that are told apart elsewhere. */
const tries = triesFrom(0);
/** Ways that end otherwise amidst each work. */
const ofEachWork = ['dispose', 'collect'];

const quiet = { signal: null, err: '' };
const ways: Record<string, (work: string) => Partial<Ending>> = {
  exit: () => ({ ...quiet, code: 7, out: '' }),
  throw: () => ({ signal: null, code: 1, err: expect.stringContaining('Error: uncaught on purpose') }),
  sigterm: () => ({ code: null, signal: 'SIGTERM', err: '' }),
  terminate: () => ({ ...quiet, code: 0, out: 'terminated, 1,2\n' }),
  'terminate-early': () => ({ ...quiet, code: 0, out: 'terminated, 1,2\n' }),
  'exit-in-worker': () => ({ ...quiet, code: 0, out: 'exit 7, 1,2\n' }),
  'throw-in-worker': () => ({ ...quiet, code: 0, out: 'uncaught on purpose, 1,2\n' }),
  'exit-beside-worker': () => ({ ...quiet, code: 7, out: '' }),
  dispose: (work) => ({
    ...quiet,
    code: 0,
    out: work === 'train' ? 'done, again: done\n' : 'HADAL_ERR_DISPOSED, again: HADAL_ERR_DISPOSED\n',
  }),
  collect: (work) => ({ ...quiet, code: 0, out: afterCollecting[work] as string }),
};

/** What a call gives although its model's handle was collected: a model of zeros has a loss of ln 512. */
const afterCollecting: Record<string, string> = {
  step: 'done\n',
  forward: '4,128,512\ncollected: model\n',
  lossAndGradients: '6.238\ncollected: model\n',
  generate: '100 tokens\ncollected: model\n',
  train: 'step\n',
};

describe('amidst every kind of work', () => {
  it.each(Object.entries(ways))('%s ends well', options, async (way, expected) => {
    const first = times * Object.keys(ways).indexOf(way);
    const isOfEach = ofEachWork.includes(way);
    for (const { work, delayMs } of triesFrom(first, isOfEach ? Math.max(times, works.length) : times)) {
      const ending = await end(['--expose-gc', child, way, work, folder, delayMs]);
      expect(ending, `${work}, after ${delayMs} ms`).toMatchObject(expected(work));
    }
  });
});

describe('two workers', () => {
  it('one is ended while it works; the other trains as it would alone', options, async () => {
    for (const { work } of tries.slice(0, Math.ceil(times / 6))) {
      const ending = await end([child, 'two-workers', work, folder, '0']);
      expect(ending).toEqual({ ...quiet, code: 0, out: '20 losses, the same\n' });
    }
  });
});

describe('hadal train', () => {
  it('saves a checkpoint at SIGTERM, exits 130, and goes on from there', options, async () => {
    for (const [i, { delayMs }] of tries.slice(0, Math.ceil(times / 6)).entries()) {
      const out = join(folder, `run-${i}`);
      const set = ['evaluation.batches=1', `data.cache=${join(folder, 'cache')}`].flatMap((pair) => ['--set', pair]);
      const train = (steps: number) => [
        main,
        'train',
        '--preset',
        'test',
        '--threads',
        '2',
        '--steps',
        `${steps}`,
        ...set,
        '--out',
        out,
        '--json',
      ];
      let isSent = false;
      const ending = await end(train(100_000), (run, text) => {
        if (isSent || !text.includes('"step":3,')) return;
        isSent = true;
        setTimeout(() => run.kill('SIGTERM'), Number(delayMs));
      });
      expect(ending).toMatchObject({
        code: 130,
        signal: null,
        err: expect.stringMatching(/is saved, --resume goes on/),
      });
      const [saved] = readdirSync(join(out, 'checkpoints'));
      const step = Number(saved?.slice('step-'.length));
      expect(step).toBeGreaterThanOrEqual(3);
      expect(readdirSync(out).sort()).not.toContain('run.lock');
      const resumed = await end([...train(step + 1), '--resume']);
      expect(resumed).toMatchObject({ code: 0, signal: null, out: expect.stringContaining(`"type":"end"`) });
      expect(resumed.out).toContain(`"step":${step + 1},`);
    }
  });
});

describe('a process', () => {
  it('with an idle open device exits by itself', async () => {
    expect(await end([child, 'idle', '', '', ''])).toEqual({ ...quiet, code: 0, out: 'idle\n' });
  });

  it('lives until a step that nobody awaits is done', async () => {
    expect(await end([child, 'finish', '', '', ''])).toEqual({ ...quiet, code: 0, out: 'done\n' });
  });
});
