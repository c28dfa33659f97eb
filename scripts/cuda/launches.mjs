// What the simulated GPU says of launches: with HADAL_SIM_LOG=<file> it writes a line for each kind of launch, of which the
// gates take the bytes of shared memory and the conflicts of shared memory's banks.
import { existsSync, readFileSync } from 'node:fs';
import { bodyOf } from './names.mjs';

/**
 * @typedef {object} Launched what kernels were launched with, over all launches
 * @property {number} sharedBytes the most
 * @property {number} wavefronts the most that ldmatrix took for a matrix: 1 where no two of its rows share banks; 0: it was not used
 */

/** @param {string} [file] the log @returns {Map<string, Launched>} by kernel; empty where there is no log */
export function readLaunches(file) {
  const found = new Map();
  if (file === undefined || !existsSync(file)) return found;
  for (const line of readFileSync(file, 'utf8').split('\n').filter(Boolean)) {
    const { kernel, sharedBytes, worstWavefrontsPerMatrix } = JSON.parse(line);
    const name = launchedBody(kernel);
    const { sharedBytes: bytes = 0, wavefronts = 0 } = found.get(name) ?? {};
    found.set(name, {
      sharedBytes: Math.max(bytes, sharedBytes),
      wavefronts: Math.max(wavefronts, worstWavefrontsPerMatrix),
    });
  }
  return found;
}

/** GCC says `… [with auto body = rms_norm::forward<float>; int threads = 256; …]`. @param {string} signature */
export const launchedBody = (signature) => bodyOf(/\bbody = (.*?); int threads = /.exec(signature)?.[1] ?? signature);
