// Memory of the machine, of the container around the process, and of the process.
import { freemem, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { systemText } from './system-file.js';

/** Bytes that may be used in all, and that are still to be had. */
export interface MemoryRoom {
  total: number;
  available: number;
}

/** Files that tell; tests give others. */
export interface MemoryFiles {
  /** The machine's memory. */
  meminfo: string;
  /** Which control groups the process is in. */
  groups: string;
  /** Where they are mounted. */
  root: string;
}

const linuxFiles: MemoryFiles = { meminfo: '/proc/meminfo', groups: '/proc/self/cgroup', root: '/sys/fs/cgroup' };

/** What the machine has, or the tightest of the control groups (version 2 and 1) that the process is in. */
export function memoryRoom(files: MemoryFiles = linuxFiles): MemoryRoom {
  const available = numberAfter(systemText(files.meminfo), 'MemAvailable:');
  const machine = { total: totalmem(), available: available === null ? freemem() : 1024 * available };
  const rooms = [machine, ...groupsOf(files).map(roomOf)];
  return {
    total: Math.min(...rooms.map((room) => room.total)),
    available: Math.max(0, Math.min(...rooms.map((room) => room.available))),
  };
}

/** Share of the memory that is in use, of the machine or, where that is nearer its end, of the container. */
export function memoryShare(files?: MemoryFiles): number {
  const { total, available } = memoryRoom(files);
  return 1 - available / total;
}

/** Bytes of the process in memory: now, and the most there ever were (null where the system does not tell). */
export function residentBytes(): { now: number; peak: number | null } {
  const peak = numberAfter(systemText('/proc/self/status'), 'VmHWM:');
  return { now: process.memoryUsage.rss(), peak: peak === null ? null : 1024 * peak };
}

/** Files of a control group, by version. */
const versions = [
  { limit: 'memory.max', used: 'memory.current', cache: 'inactive_file', folder: '' },
  { limit: 'memory.limit_in_bytes', used: 'memory.usage_in_bytes', cache: 'total_inactive_file', folder: 'memory' },
];

/** The group of the process and those around it. A container sees its own at the root, whatever the name is outside. */
function groupsOf({ groups, root }: MemoryFiles): { path: string; version: number }[] {
  const text = systemText(groups);
  const names = [/^0::(\/.*)$/m.exec(text)?.[1], /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(\/.*)$/m.exec(text)?.[1]];
  return names.flatMap((name, version) => {
    const found: { path: string; version: number }[] = [];
    for (let at = name; at !== undefined; at = at === '/' ? undefined : dirname(at)) {
      found.push({ path: join(root, versions[version]?.folder ?? '', at), version });
    }
    return found;
  });
}

function roomOf({ path, version }: { path: string; version: number }): MemoryRoom {
  const { limit, used, cache } = versions[version] as (typeof versions)[number];
  const total = Number.parseInt(systemText(join(path, limit)), 10); // NaN for 'max', and where there is no such file
  if (!(total >= 0)) return { total: Number.POSITIVE_INFINITY, available: Number.POSITIVE_INFINITY };
  // What the group read from files and does not use is given up before anything is refused.
  const reclaimable = numberAfter(systemText(join(path, 'memory.stat')), cache) ?? 0;
  return { total, available: total - Number(systemText(join(path, used))) + reclaimable };
}

function numberAfter(text: string, name: string): number | null {
  const line = text.split('\n').find((each) => each.startsWith(`${name}\t`) || each.startsWith(`${name} `));
  return line === undefined ? null : Number.parseInt(line.slice(name.length), 10);
}
