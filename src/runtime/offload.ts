// Slots that lie in a file are read into memory ahead of their use and given back after it, so that of all of them a window
// is in memory. This happens to instructions and not to a graph, where a slot is read and written only in name: here is known
// which instruction touches which slot, copies of results included.
import { loadAddon } from '../addon/addon.js';
import { bytesOf } from '../core/dtype.js';
import { sizeOf } from '../core/shape.js';
import { maxOffloaded, prefetchCall, releaseCall } from '../ops/offload.js';
import type { PlannedInstruction } from './encode.js';
import { packParams } from './kernel-params.js';
import type { InstructionInfo, TensorSpec } from './plan.js';

/** A program's instructions with what each one is. */
export interface Instructions {
  instructions: PlannedInstruction[];
  infos: InstructionInfo[];
}

/** Consecutive instructions whose offloaded slots are fetched together. */
interface Group {
  /** Indices of the instructions. */
  first: number;
  last: number;
  /** Slots by index, and whether they are written. */
  slots: Map<number, boolean>;
  bytes: number;
}

/** How long a slot stays in memory: from one group to another. */
interface Stay {
  slot: number;
  writes: boolean;
  from: number;
  to: number;
}

/** Bytes of a group. At 3 GB/s it takes 5 ms to read, beside which a disk's 0.1 ms to answer does not count. */
const groupBytes = 16 * 2 ** 20;

/** Instructions ahead of the first group's at which reading begins: the memory is taken no earlier than need be. */
const lead = 8;

/**
 * Puts `prefetch` and `release` around the uses of offloaded slots, on the copy queue. While a group of instructions runs, the
 * next one's slots are read. A group waits until its own are there; since the queue keeps its order, those of the group
 * before the last have been released by then.
 *
 * @param slots - of the program, in the order in which instructions name them
 * @returns the instructions, and the most bytes of offloaded slots that are in memory at once
 */
export function offload(
  { instructions, infos }: Instructions,
  slots: readonly TensorSpec[],
): Instructions & { windowBytes: number } {
  const bytes = slots.map(({ dtype, shape }) => bytesOf(dtype, sizeOf(shape)));
  const groups = groupsOf(instructions, slots, bytes);
  const stays = staysOf(groups);
  const startOf = (group: number) => groups[group - 1]?.first ?? Math.max(0, (groups[0] as Group).first - lead);
  const begun = groupedBy(groups.keys(), startOf);
  const fetched = groupedBy(stays, ({ from }) => from);
  const released = groupedBy(stays, ({ to }) => (groups[to] as Group).last + 1);

  const made: PlannedInstruction[] = [];
  const madeInfos: InstructionInfo[] = [];
  /** Where an instruction stands now. */
  const places: number[] = [];
  /** The last that fetches slots of a group, by the group's first instruction. */
  const fetchOf = new Map<number, number>();
  const call = ({ kernel, params }: ReturnType<typeof prefetchCall>, of: readonly Stay[]) => {
    const total = of.reduce((sum, { slot }) => sum + (bytes[slot] as number), 0);
    made.push({
      kernel,
      params: packParams(kernel, params),
      queue: 'copy',
      isTimed: false,
      workspace: { offset: 0, bytes: 0 },
      predicate: null,
      buffers: of.map(({ slot }) => ({ space: 'slot', index: slot, offset: 0, bytes: bytes[slot] as number })),
      waits: [],
    });
    const traffic =
      kernel === 'prefetch' ? { bytesRead: total, bytesWritten: 0 } : { bytesRead: 0, bytesWritten: total };
    madeInfos.push({ op: kernel, scope: '', kernel, queue: 'copy', flops: 0, ...traffic });
  };
  const sizes = (of: readonly Stay[]) => of.map(({ slot }) => bytes[slot] as number);

  for (let at = 0; at <= instructions.length; at++) {
    for (const some of inCalls(released.get(at) ?? [])) call(releaseCall(sizes(some)), some);
    for (const group of begun.get(at) ?? []) {
      for (const writes of [false, true]) {
        for (const some of inCalls((fetched.get(group) ?? []).filter((stay) => stay.writes === writes))) {
          call(prefetchCall(sizes(some), writes), some);
          fetchOf.set((groups[group] as Group).first, made.length - 1);
        }
      }
    }
    const instruction = instructions[at];
    if (!instruction) continue;
    const fetch = fetchOf.get(at);
    const waits = instruction.waits.map((wait) => places[wait] as number);
    places.push(made.length);
    made.push({ ...instruction, waits: fetch === undefined ? waits : [...waits, fetch] });
    madeInfos.push(infos[at] as InstructionInfo);
  }
  return { instructions: made, infos: madeInfos, windowBytes: windowOf(stays, groups.length, bytes) };
}

function groupsOf(
  instructions: readonly PlannedInstruction[],
  slots: readonly TensorSpec[],
  bytes: readonly number[],
): Group[] {
  const groups: Group[] = [];
  let group: Group | null = null;
  for (const [at, instruction] of instructions.entries()) {
    const touched = touchedBy(instruction, slots);
    if (touched.size === 0) continue;
    const added = [...touched.keys()].filter((slot) => !group?.slots.has(slot));
    const more = added.reduce((sum, slot) => sum + (bytes[slot] as number), 0);
    if (!group || group.bytes + more > groupBytes) {
      group = { first: at, last: at, slots: new Map(), bytes: 0 };
      groups.push(group);
    }
    group.last = at;
    for (const [slot, writes] of touched) {
      if (!group.slots.has(slot)) group.bytes += bytes[slot] as number;
      group.slots.set(slot, writes || group.slots.get(slot) === true);
    }
  }
  return groups;
}

/** Offloaded slots that an instruction uses, and whether it writes them. */
function touchedBy(
  { kernel, params, buffers }: PlannedInstruction,
  slots: readonly TensorSpec[],
): Map<number, boolean> {
  const touched = new Map<number, boolean>();
  if (!buffers.some((buffer) => buffer?.space === 'slot' && slots[buffer.index]?.offloaded)) return touched;
  const list = loadAddon().bufferList(kernel, params);
  for (const [i, buffer] of buffers.entries()) {
    if (buffer?.space !== 'slot' || !slots[buffer.index]?.offloaded) continue;
    touched.set(buffer.index, list[i]?.access !== 'in' || touched.get(buffer.index) === true);
  }
  return touched;
}

/** A slot that would be fetched again no later than it is released stays. */
function staysOf(groups: readonly Group[]): Stay[] {
  const stays: Stay[] = [];
  const latest = new Map<number, Stay>();
  for (const [at, group] of groups.entries()) {
    for (const [slot, writes] of group.slots) {
      const stay = latest.get(slot);
      if (stay && at - stay.to <= 2) {
        stay.to = at;
        stay.writes ||= writes;
      } else {
        const begun = { slot, writes, from: at, to: at };
        latest.set(slot, begun);
        stays.push(begun);
      }
    }
  }
  return stays;
}

/** While a group runs, its own slots are in memory and the next one's are being read. */
function windowOf(stays: readonly Stay[], groups: number, bytes: readonly number[]): number {
  const held = Array<number>(groups).fill(0);
  for (const { slot, from, to } of stays) {
    for (let at = Math.max(0, from - 1); at <= to; at++) held[at] = (held[at] as number) + (bytes[slot] as number);
  }
  return Math.max(0, ...held);
}

function groupedBy<T>(items: Iterable<T>, keyOf: (item: T) => number): Map<number, T[]> {
  const grouped = new Map<number, T[]>();
  for (const item of items) {
    const list = grouped.get(keyOf(item));
    if (list) list.push(item);
    else grouped.set(keyOf(item), [item]);
  }
  return grouped;
}

function inCalls(stays: readonly Stay[]): Stay[][] {
  return Array.from({ length: Math.ceil(stays.length / maxOffloaded) }, (_, i) =>
    stays.slice(i * maxOffloaded, (i + 1) * maxOffloaded),
  );
}
