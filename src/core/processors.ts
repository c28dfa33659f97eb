import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { systemText } from './system-file.js';

/**
 * Processors that this process may use: those that it may run on, and no more than a container's share of time allows; or its
 * share of them among the processes of a launcher (`HADAL_PROCESSORS`).
 */
export function usableProcessors(): number {
  const share = Number(process.env.HADAL_PROCESSORS);
  if (Number.isInteger(share) && share >= 1) return share;
  return Math.max(1, Math.min(availableParallelism(), Math.ceil(timeShare('/proc/self/cgroup', '/sys/fs/cgroup'))));
}

/**
 * Processors' worth of time that the control group of a process grants, by itself and the groups around it. Newer libuv
 * looks there itself, Node 20's does not.
 *
 * @param groups - file that names the process's groups
 * @param root - where the second version of control groups is mounted
 * @returns Infinity where nothing limits it
 */
export function timeShare(groups: string, root: string): number {
  const group = /^0::(\/.*)$/m.exec(systemText(groups))?.[1];
  if (group === undefined) return Number.POSITIVE_INFINITY;
  let share = Number.POSITIVE_INFINITY;
  for (let at = group; ; at = dirname(at)) {
    const [quota, period] = systemText(join(root, at, 'cpu.max'))
      .split(' ')
      .map(Number);
    if (quota && period) share = Math.min(share, quota / period);
    if (at === '/') return share;
  }
}
