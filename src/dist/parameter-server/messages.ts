// What workers and servers tell each other. Numbers of tensors travel as payload behind the message.
import { z } from 'zod';
import { HadalError } from '../../core/errors.js';
import { shown } from '../../core/expectation.js';

const whole = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const worker = z.string().min(1).max(64);
const of = <const Type extends string, Fields extends z.ZodRawShape>(type: Type, fields: Fields) =>
  z.strictObject({ type: z.literal(type), ...fields });

/** To the coordinator, which lives in server 0. */
export const toCoordinator = z.discriminatedUnion('type', [
  /** For work. Who is unknown joins with it. */
  of('ask', { worker }),
  /** Still computing. */
  of('beat', { worker, ticket: whole }),
  of('leave', { worker }),
  /** From a server: it has its part of a push. */
  of('stored', { server: whole, worker, ticket: whole, tokens: whole, version: whole }),
  /** From a server: its part of an update's gradient, weighted and summed, has this squared norm; null: it is not finite. */
  of('summed', { server: whole, update: whole, squaredNorm: z.number().nonnegative().nullable() }),
  of('applied', { server: whole, update: whole }),
]);

/** To a server. */
export const toServer = z.discriminatedUnion('type', [
  /** The gradient of a ticket's micro-batch at parameters of `version`, the mean over `tokens`. With payload. */
  of('push', { worker, ticket: whole, tokens: whole, version: whole }),
  /** For what has changed since version `have`, as soon as there is version `atLeast`; −1: nothing is had. */
  of('pull', { worker, have: z.number().int().min(-1), atLeast: whole }),
  of('sum', { update: whole, parts: z.array(z.strictObject({ ticket: whole, weight: z.number().min(0).max(1) })) }),
  of('apply', { update: whole, squaredNorm: z.number().nonnegative().nullable() }),
  of('discard', { ticket: whole }),
]);

/** To a worker. */
export const toWorker = z.discriminatedUnion('type', [
  of('work', { ticket: whole, microBatch: whole, version: whole }),
  of('accepted', { ticket: whole }),
  /** `stale`: it is older than the bound; `late`: the worker's lease had ended, its micro-batch is another's. */
  of('refused', { ticket: whole, reason: z.enum(['stale', 'late']) }),
  /** The tensors (by number within the server) that differ between versions `since` and `version`. With payload. */
  of('parameters', { server: whole, since: z.number().int().min(-1), version: whole, tensors: z.array(whole) }),
  of('end', {}),
]);

export type ToCoordinator = z.output<typeof toCoordinator>;
export type ToServer = z.output<typeof toServer>;
export type ToWorker = z.output<typeof toWorker>;

/** @throws HadalError HADAL_ERR_COMM for what is no such message */
export function readMessage<Message>(schema: z.ZodType<Message>, given: unknown): Message {
  const read = schema.safeParse(given);
  if (read.success) return read.data;
  throw new HadalError('HADAL_ERR_COMM', `[comm] expected a message of a parameter server, got ${shown(given)}`);
}
