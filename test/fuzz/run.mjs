// Damaged files of every kind, read in a process of their own: it may refuse them, and nothing else.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const child = fileURLToPath(new URL('child.mjs', import.meta.url));
const silentMs = 30_000;

/**
 * Runs `count` cases of a target.
 *
 * @param {string} target
 * @param {{ seed: number, count: number }} options
 * @returns {Promise<{ target: string, seed: number, what: string }[]>} what a case did that none may do: crash, hang for
 * more than a second, throw something else than a HadalError, or open a path outside of its folder
 */
export async function fuzz(target, { seed, count }) {
  const folder = mkdtempSync(path.join(tmpdir(), 'hadal-fuzz-'));
  const found = [];
  try {
    for (let next = seed; next < seed + count && found.length < 5; ) {
      const { findings, last, ended } = await runChild(target, folder, next, seed + count - next);
      if (last < next) throw new Error(`the fuzzing process does not start: ${ended}`);
      found.push(...findings);
      if (ended === null) break;
      found.push({ target, seed: last, what: ended });
      next = last + 1;
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return found;
}

/** @returns {Promise<{ findings: { target: string, seed: number, what: string }[], last: number, ended: string | null }>} */
function runChild(target, folder, first, count) {
  return new Promise((resolve) => {
    const args = [child, target, folder, String(first), String(count)];
    const running = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe', 'pipe'] });
    const [, stdout, stderr, progress] = /** @type {any[]} */ (running.stdio);
    let [output, errors, last] = ['', '', first - 1];
    let watch = setTimeout(() => {}, 0);
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => running.kill('SIGKILL'), silentMs);
    };
    alive();
    progress.on('data', (data) => {
      last = Number(String(data).trimEnd().split('\n').at(-1));
      alive();
    });
    stdout.on('data', (data) => {
      output += data;
    });
    stderr.on('data', (data) => {
      errors = (errors + data).slice(0, 2000);
    });
    running.on('close', (code, signal) => {
      clearTimeout(watch);
      const findings = output
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line));
      const ended = code === 0 ? null : `the process ended: ${signal ?? code} ${errors.slice(0, 300)}`;
      resolve({ findings, last, ended });
    });
  });
}
