// What ends while a step runs must end well: no crash, no hang, the right exit status. In processes of their own.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const child = fileURLToPath(new URL('./ending/child.mjs', import.meta.url));

interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  err: string;
}

/** Runs a child; a hang is ended after 20 s and shows as a signal. */
function end(way: string): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const run = spawn(process.execPath, [child, way], { timeout: 20_000, killSignal: 'SIGKILL' });
    let [out, err] = ['', ''];
    run.stdout.on('data', (text) => (out += text));
    run.stderr.on('data', (text) => (err += text));
    run.once('error', reject);
    run.once('close', (code, signal) => resolve({ code, signal, out, err }));
  });
}

const times = 30;
async function thirtyTimes(way: string, check: (ending: Ending) => void): Promise<void> {
  for (let i = 0; i < times; i++) {
    const ending = await end(way);
    expect(ending.signal, `try ${i}: ${ending.err}`).toBeNull();
    check(ending);
  }
}

describe.concurrent('during a step', () => {
  it('process.exit ends with its code, thirty times', async () => {
    await thirtyTimes('exit', ({ code }) => expect(code).toBe(7));
  }, 120_000);

  it('an uncaught error ends with 1 and its message, thirty times', async () => {
    await thirtyTimes('throw', ({ code, err }) => {
      expect(code).toBe(1);
      expect(err).toContain('uncaught on purpose');
    });
  }, 120_000);

  it('worker.terminate ends the worker and leaves the process whole, thirty times', async () => {
    await thirtyTimes('terminate', ({ code, out }) => {
      expect(code).toBe(0);
      expect(out).toBe('terminated\n');
    });
  }, 120_000);
});

describe('a process', () => {
  it('with an idle open device exits by itself', async () => {
    expect(await end('idle')).toEqual({ code: 0, signal: null, out: 'idle\n', err: '' });
  });

  it('lives until a step that nobody awaits is done', async () => {
    expect(await end('finish')).toEqual({ code: 0, signal: null, out: 'done\n', err: '' });
  });
});
