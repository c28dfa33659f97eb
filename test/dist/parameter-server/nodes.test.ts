// What reaches a server and is no message of the protocol, or none at its place.
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { readMessage, toCoordinator, toServer, toWorker } from '../../../src/dist/parameter-server/messages.js';
import { Coordinator } from '../../../src/dist/parameter-server/protocol.js';
import { ServerNode } from '../../../src/dist/parameter-server/server-node.js';
import { WorkerNode } from '../../../src/dist/parameter-server/worker-node.js';
import { connect, type Peer } from '../../../src/dist/transport.js';

const token = 'a token of the tests alone';
const coordinatorOptions = {
  ...{ servers: 1, staleness: 2, leaseMs: 60_000, start: 0, steps: 3 },
  before: (update: number) => update,
  barrierAfter: () => 3,
};

const opened: ServerNode[] = [];
afterEach(async () => {
  for (const node of opened.splice(0)) await node[Symbol.asyncDispose]();
});

/** A server of one number, which gradients are subtracted from. */
async function serve() {
  let x = 8;
  let gradient = 0;
  const node = await ServerNode.open({
    ...{ host: '127.0.0.1', port: 0, token, payloadBytes: 64, welcome: { steps: 3 }, coordinator: coordinatorOptions },
    numbers: {
      ...{ tensors: 1, pushBytes: 4 },
      sum: async (parts) => {
        gradient = parts.reduce((sum, part) => sum + part.weight * floatOf(part.gradient), 0);
        return gradient ** 2;
      },
      apply: async () => {
        x -= gradient;
        return [0];
      },
      read: async () => new Uint8Array(Float32Array.of(x).buffer),
    },
    onNotice: () => {},
    onUpdated: () => {},
  });
  opened.push(node);
  return { node, value: () => x };
}

const floatOf = (bytes: Uint8Array): number => Buffer.from(bytes).readFloatLE(0);

const work = async (port: number, name: string): Promise<number> => {
  const { node, run } = await WorkerNode.open({
    ...{ name, host: '127.0.0.1', port, token, timeout: 5, payloadBytes: 64 },
    onNotice: () => {},
  });
  expect(run).toEqual({ steps: 3 });
  let cache = Number.NaN;
  await node.work({
    load: async (_, payload) => {
      cache = floatOf(payload);
    },
    compute: async () => 1,
    gradient: async () => new Uint8Array(Float32Array.of(cache / 2).buffer),
  });
  return node.protocol.counts.accepted;
};

/** Sends what it is given behind a proper beginning. @returns why the connection was closed; null: it was not */
async function say(port: number, messages: readonly unknown[], payload?: Uint8Array): Promise<string | null> {
  const peer: Peer = await connect({ host: '127.0.0.1', port, token, payloadBytes: 64 });
  return new Promise((resolve) => {
    peer.receive({ onMessage: () => {}, onClose: resolve });
    for (const message of messages) peer.send(message, payload);
    setTimeout(() => {
      resolve(null);
      peer.close();
    }, 300);
  });
}

describe('a server', () => {
  it('closes connections that say what is not theirs to say, and serves the others', async () => {
    const { node, value } = await serve();
    const { port } = node;
    const hello = { type: 'hello', worker: 'bad' };
    const bad: [unknown[], Uint8Array?][] = [
      [['nothing']],
      [[{ type: 'hello', worker: '' }]],
      [[hello, { type: 'ask' }]],
      [[hello, { type: 'ask', worker: 'another' }]],
      [[hello, { type: 'apply', update: 0, squaredNorm: 1 }]],
      [[hello, { type: 'applied', server: 0, update: 0 }]],
      [[hello, { type: 'push', worker: 'bad', ticket: 0, tokens: 1, version: 0 }], new Uint8Array(3)],
      [[hello, { type: 'pull', worker: 'bad', have: -2, atLeast: 0 }]],
    ];
    for (const [messages, payload] of bad) expect(await say(port, messages, payload)).not.toBeNull();
    // Well-formed, but of a ticket that nobody has: refused, not counted as anything.
    const unknown = { type: 'push', worker: 'bad', ticket: 7, tokens: 1, version: 0 };
    expect(await say(port, [hello, unknown], new Uint8Array(4))).toBeNull();
    expect(await work(port, 'good')).toBe(3);
    expect(value()).toBe(1);
    expect(node.coordinator.counts).toMatchObject({ accepted: 3, late: 0, stale: 0 });
  });
});

describe('messages', () => {
  const number = fc.oneof(fc.nat(5), fc.integer(), fc.double());
  const some = fc.record(
    {
      type: fc.constantFrom(
        'ask',
        'beat',
        'leave',
        'stored',
        'summed',
        'applied',
        'push',
        'pull',
        'work',
        'end',
        'sum',
      ),
      worker: fc.oneof(fc.constantFrom('a', 'b'), fc.string()),
      ...{
        ticket: number,
        server: number,
        tokens: number,
        version: number,
        update: number,
        have: number,
        atLeast: number,
      },
      squaredNorm: fc.oneof(number, fc.constant(null)),
    },
    { requiredKeys: ['type'] },
  );

  it('of any kind are read, or refused with an error of ours', () => {
    fc.assert(
      fc.property(fc.oneof(fc.anything(), some), (given) => {
        for (const schema of [toCoordinator, toServer, toWorker]) {
          try {
            expect(readMessage<object>(schema, given)).toEqual(given);
          } catch (error) {
            expect(error).toMatchObject({ code: 'HADAL_ERR_COMM' });
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('in any order leave the coordinator in order', () => {
    const name = fc.constantFrom('a', 'b', 'c');
    const small = fc.nat(4);
    const message = fc.oneof(
      fc.record({ type: fc.constant('ask' as const), worker: name }),
      fc.record({ type: fc.constant('beat' as const), worker: name, ticket: small }),
      fc.record({ type: fc.constant('leave' as const), worker: name }),
      fc.record({
        ...{ type: fc.constant('stored' as const), server: fc.constant(0), worker: name },
        ...{ ticket: small, tokens: small, version: small },
      }),
      fc.record({ type: fc.constant('summed' as const), server: fc.constant(0), update: small, squaredNorm: small }),
      fc.record({ type: fc.constant('applied' as const), server: fc.constant(0), update: small }),
    );
    fc.assert(
      fc.property(fc.array(message, { maxLength: 60 }), (messages) => {
        const coordinator = new Coordinator(coordinatorOptions);
        const dealt = new Map<number, number>();
        for (const [now, each] of messages.entries()) {
          const before = coordinator.version;
          for (const sent of coordinator.receive(each, now)) {
            if (sent.message.type !== 'work') continue;
            const { ticket, microBatch } = sent.message;
            // A ticket is for one micro-batch for ever.
            expect(dealt.get(ticket) ?? microBatch).toBe(microBatch);
            dealt.set(ticket, microBatch);
          }
          expect(coordinator.version - before === 0 || coordinator.version - before === 1).toBe(true);
          expect(coordinator.counts.accepted).toBeGreaterThanOrEqual(coordinator.version);
        }
      }),
      { numRuns: 500 },
    );
  });
});
