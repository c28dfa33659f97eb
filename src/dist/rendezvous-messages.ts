// What is said between the processes of a run and the one that hosts it.
import { z } from 'zod';

const key = z.string().min(1).max(256);
const keys = z.array(key).min(1).max(4096);
const whole = z
  .number()
  .int()
  .min(0)
  .max(2 ** 31);
const name = z.string().min(1).max(256);

/** Rank and host of processes that are no more, and why. */
export interface LostRank {
  rank: number;
  host: string;
  reason: string;
}

/** A process's place in a round. */
export interface Deal {
  round: number;
  rank: number;
  size: number;
  localRank: number;
  localSize: number;
  /** Of each rank. */
  hosts: string[];
}

const requests = [
  z.strictObject({ do: z.literal('set'), key, value: z.string() }),
  // After so many milliseconds, the answer is which are missing.
  z.strictObject({ do: z.literal('get'), keys, waitMs: whole }),
  z.strictObject({ do: z.literal('add'), key, by: z.number().int() }),
  z.strictObject({ do: z.literal('delete'), keys }),
  // A process of the run; those that no launcher started say which one they are.
  z.strictObject({
    do: z.literal('join'),
    worker: name,
    host: name,
    place: z
      .strictObject({ rank: whole, size: whole, localRank: whole.nullable(), localSize: whole.nullable() })
      .nullable(),
  }),
  z.strictObject({ do: z.literal('arrive'), step: z.number().int().min(-1), waitMs: whole.nullable() }),
  z.strictObject({ do: z.literal('leave') }),
  // Ranks of the round that have left in good order.
  z.strictObject({ do: z.literal('left') }),
  // The launcher of a host.
  z.strictObject({ do: z.literal('enlist'), node: whole, processes: whole.min(1).max(1024), host: name }),
  z.strictObject({
    do: z.literal('ended'),
    worker: name,
    status: whole.nullable(),
    signal: z.string().max(32).nullable(),
  }),
  // On a connection of its own, by a process or by a launcher.
  z.strictObject({ do: z.literal('beat'), of: name }),
] as const;

/** A request and its number, which the answer repeats. */
export const requestSchema = z.strictObject({ id: whole, ask: z.discriminatedUnion('do', requests) });

export type Request = z.infer<typeof requestSchema>['ask'];

/** What the host of a run says: answers, and what nobody asked for. */
export type Reply =
  | { id: number; value: unknown }
  | { id: number; error: string }
  | { event: 'over'; round: number; message: string; lost: LostRank[] }
  | { event: 'dismissed'; message: string }
  | { event: 'start'; worker: string }
  | { event: 'kill'; worker: string }
  | { event: 'dealt'; round: number; ranks: Record<string, number> }
  | { event: 'end'; status: number; message: string };

/** What a process is told when it has joined. */
export interface Joined {
  /** Silence after which it counts as lost. */
  heartbeatMs: number;
}

/** What a launcher is told when it has enlisted. */
export interface Enlisted extends Joined {
  workers: string[];
}

/** The name of a launcher's heartbeats. */
export function launcherName(node: number): string {
  return `launcher ${node}`;
}
