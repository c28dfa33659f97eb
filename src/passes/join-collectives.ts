// Collectives of single tensors become calls of many, made as soon as the last of them is there: while gradients of one
// bucket travel, the backward pass computes the next one's.
import type { Graph, Node, Value } from '../graph/graph.js';
import { readersIn, reads } from '../graph/reads.js';
import { rewrite } from './rewrite.js';

/** Collectives that will be one call. */
interface Bucket {
  nodes: Node[];
  bytes: number;
}

/**
 * Joins collectives in the order in which their tensors are ready. A call is made when it has `bucketBytes`, and at the
 * latest before its first result is read. What makes gradients ready (a sum over micro-batches, compression) moves up to
 * where it can run; where it needs the result of a call, to behind the next one, so that nobody waits for what has just begun. Behind the backward
 * pass, whoever waits for one call waits for all: when the update of the weights begins, nothing of it can fail any more.
 *
 * @param bucketBytes - of the tensors given, or made where those are larger; a larger tensor is a call of its own
 */
export function joinCollectives(graph: Graph, bucketBytes: number): Graph {
  const afterBackward = nodesAfterBackward(graph);
  const moving = new Set(graph.nodes.filter(({ op }) => op.join).concat(leadingNodes(graph, afterBackward)));
  if (moving.size === 0) return graph;
  const readers = readersIn([...moving]);
  const order: Node[] = [];
  const placed = new Set<Node>();
  const calls = new Map<Node, Bucket>();
  const buckets = new Map<string, Bucket>();
  /** Calls so far whose tensors the backward pass alone made; as many as a node's inputs have seen; nodes that wait for more. */
  let rounds = 0;
  const roundOf = new Map<Node, number>();
  const ripening = new Set<Node>();

  const call = (bucket: Bucket) => {
    calls.set(bucket.nodes[0] as Node, bucket);
    if (bucket.nodes.every((node) => roundBefore(node) === 0)) rounds++;
    for (const node of bucket.nodes) roundOf.set(node, rounds);
    for (const node of bucket.nodes) place(node);
    for (const node of ripening) if (!placed.has(node) && roundBefore(node) < rounds) place(node);
  };
  const emit = (key: string) => {
    const bucket = buckets.get(key);
    buckets.delete(key);
    if (bucket) call(bucket);
  };
  const emitAll = () => {
    for (const key of [...buckets.keys()]) emit(key);
  };
  const collect = (node: Node) => {
    const bytes = Math.max(bytesOf(node.inputs), bytesOf(node.outputs));
    if (node.op.join?.isUrgent(node.attrs)) return call({ nodes: [node], bytes });
    const key = keyOf(node);
    const open = buckets.get(key);
    if (open && (open.nodes.length === node.op.join?.most || open.bytes + bytes > bucketBytes)) emit(key);
    const bucket = buckets.get(key) ?? { nodes: [], bytes: 0 };
    buckets.set(key, bucket);
    bucket.nodes.push(node);
    bucket.bytes += bytes;
    if (bucket.bytes >= bucketBytes) emit(key);
  };
  const roundBefore = (node: Node) => Math.max(0, ...reads(node).map((value) => roundOf.get(value.node) ?? 0));
  const ready = (node: Node) => {
    if (node.op.join) return collect(node);
    const before = roundBefore(node);
    if (before === 0 || before < rounds) place(node);
    else ripening.add(node);
  };
  const place = (node: Node) => {
    order.push(node);
    placed.add(node);
    ripening.delete(node);
    if (!node.op.join) roundOf.set(node, moving.has(node) ? roundBefore(node) : 0);
    for (const reader of new Set(node.outputs.flatMap((output) => readers.get(output) ?? []))) {
      if (!placed.has(reader) && reads(reader).every((value) => placed.has(value.node))) ready(reader);
    }
  };
  // Nothing waits for what is there from the beginning.
  for (const node of graph.nodes) if (node.op.isSource) place(node);
  for (const node of graph.nodes) {
    if (placed.has(node) || node.op.join) continue;
    for (const { node: maker } of reads(node)) {
      if (placed.has(maker)) continue;
      if (afterBackward.has(node)) emitAll();
      else emit(keyOf(maker));
    }
    if (!placed.has(node)) place(node);
  }
  emitAll();

  return rewrite(
    graph,
    (node, { graph: target, of, set }) => {
      if (!node.op.join) return null;
      const bucket = calls.get(node);
      if (!bucket) return 'drop';
      const { nodes } = bucket;
      const attrs = node.op.join.attrs(nodes.map((one) => one.attrs));
      const inputs = nodes.flatMap((one) => one.inputs.map((input) => input && of(input)));
      const made = target.add(node.op, inputs, attrs);
      for (const [i, value] of nodes.flatMap((one) => one.outputs).entries()) set(value, made[i] as Value);
      return made.slice(0, node.outputs.length);
    },
    order,
  );
}

const bytesOf = (values: readonly (Value | null)[]): number =>
  values.reduce((sum, value) => sum + (value?.bytes ?? 0), 0);

/** Calls differ by what they do, and by whether they are made at all. */
const keyOf = ({ op, attrs, predicate }: Node): string =>
  `${op.name} ${predicate?.node.id ?? ''} ${op.join?.key(attrs)}`;

/** What is made of the backward pass's results, and none of it. */
function nodesAfterBackward(graph: Graph): Set<Node> {
  const found = new Set<Node>();
  for (const node of graph.nodes) {
    const follows = ({ node: maker }: Value) => maker.isBackward || found.has(maker);
    if (!node.isBackward && reads(node).some(follows)) found.add(node);
  }
  return found;
}

/** What stands between the backward pass and a collective. */
function leadingNodes(graph: Graph, afterBackward: ReadonlySet<Node>): Node[] {
  const leads = new Set<Node>();
  for (const node of [...graph.nodes].reverse()) {
    if (node.op.join || leads.has(node)) for (const value of reads(node)) leads.add(value.node);
  }
  return [...afterBackward].filter(
    (node) => leads.has(node) && !node.op.join && !node.predicate && node.queue === 'compute',
  );
}
