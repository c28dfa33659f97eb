// Which processes are near each other, and what follows: what of the mesh belongs inside a box, and in how many levels gradients are
// summed. Decisions alone; `hadal doctor --comm` measures.
import { median } from '../core/median.js';
import type { MeshAxis } from '../core/mesh.js';

/** Where a process runs. Two that agree in all share memory and a loopback device. */
export interface Place {
  host: string;
  /** Of the running system: hosts may share a name. */
  bootId: string;
  /** Of the network namespace: containers of one system are as far from each other as their network makes them. */
  network: string;
}

/** What was measured between any two ranks, [from][to]; entries of a rank and itself mean nothing. */
export interface Links {
  /** One way. */
  latencyUs: readonly (readonly number[])[];
  /** GB/s, one way. */
  bandwidth: readonly (readonly number[])[];
}

/** Latency and bandwidth of a kind of link; see {@link Links}. */
export interface LinkQuality {
  latencyUs: number;
  bandwidth: number;
}

export interface Topology {
  /** Ranks, ascending, by box; boxes in the order of their first ranks. */
  boxes: readonly (readonly number[])[];
  /** Medians over the pairs inside boxes and over those across; null where there is no such pair. */
  inside: LinkQuality | null;
  across: LinkQuality | null;
}

/** Ranks by place. */
export function boxesOf(places: readonly Place[]): number[][] {
  const boxes = new Map<string, number[]>();
  for (const [rank, { host, bootId, network }] of places.entries()) {
    const key = JSON.stringify([host, bootId, network]);
    boxes.set(key, [...(boxes.get(key) ?? []), rank]);
  }
  return [...boxes.values()];
}

/** Links that differ by less are alike: what measuring twice differs by, and more. */
const alike = 1.5;

/** Boxes by place, but where the links between two are as good as those inside, both are one. */
export function topologyOf(places: readonly Place[], links: Links): Topology {
  let boxes = boxesOf(places);
  for (let joined = true; joined; ) {
    joined = false;
    search: for (const [i, a] of boxes.entries()) {
      for (const b of boxes.slice(i + 1)) {
        const within = quality([...pairsWithin(a), ...pairsWithin(b)], links);
        const between = quality(pairsBetween(a, b), links);
        if (within === null || between === null || !isAsGood(between, within)) continue;
        boxes = boxes.filter((box) => box !== b).map((box) => (box === a ? [...a, ...b].sort((x, y) => x - y) : box));
        joined = true;
        break search;
      }
    }
  }
  const inside = boxes.flatMap(pairsWithin);
  const across = boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b) => pairsBetween(a, b)));
  return { boxes, inside: quality(inside, links), across: quality(across, links) };
}

const isAsGood = (a: LinkQuality, b: LinkQuality): boolean =>
  a.latencyUs <= alike * b.latencyUs && alike * a.bandwidth >= b.bandwidth;

type Pair = readonly [number, number];

const pairsWithin = (box: readonly number[]): Pair[] =>
  box.flatMap((a, i) => box.slice(i + 1).map((b): Pair => [a, b]));

const pairsBetween = (a: readonly number[], b: readonly number[]): Pair[] =>
  a.flatMap((x) => b.map((y): Pair => [x, y]));

function quality(pairs: readonly Pair[], { latencyUs, bandwidth }: Links): LinkQuality | null {
  if (pairs.length === 0) return null;
  const of = (matrix: Links['latencyUs']) =>
    median(pairs.flatMap(([a, b]) => [matrix[a]?.[b] as number, matrix[b]?.[a] as number]));
  return { latencyUs: of(latencyUs), bandwidth: of(bandwidth) };
}

export interface AxisAdvice {
  axis: MeshAxis;
  /** Whether the axis should stay inside boxes. */
  isInside: boolean;
  /** Ranks that it can then have at most; null: any number. */
  mostRanks: number | null;
  reason: string;
}

/** Which axes of the mesh should lie inside a box. */
export function placeAxes({ boxes, inside, across }: Topology): AxisAdvice[] {
  const smallest = Math.min(...boxes.map((box) => box.length));
  if (across === null || boxes.length < 2) {
    const reason = 'all processes are in one box';
    return (['tp', 'ep', 'pp', 'dp'] as const).map((axis) => ({ axis, isInside: true, mostRanks: smallest, reason }));
  }
  const times = (value: number) => `${value.toFixed(value < 10 ? 1 : 0)} times`;
  const gap =
    inside === null
      ? `no two processes share a box; between boxes ${formatQuality(across)}`
      : `inside a box ${formatQuality(inside)}, between boxes ${formatQuality(across)}: ${times(
          across.latencyUs / inside.latencyUs,
        )} the latency, ${times(inside.bandwidth / across.bandwidth)} less bandwidth`;
  return [
    {
      ...{ axis: 'tp', isInside: true, mostRanks: smallest },
      reason: `layers wait for its all-reduces, two a layer and way, of whole activations; ${gap}`,
    },
    {
      ...{ axis: 'ep', isInside: true, mostRanks: smallest },
      reason:
        'experts wait for its all-to-alls, two a layer and way; where the experts need more ranks than a box has, let it cross before tp does',
    },
    {
      ...{ axis: 'pp', isInside: false, mostRanks: null },
      reason: 'only neighbours send, one activation a micro-batch, while they compute the next one',
    },
    {
      ...{ axis: 'dp', isInside: false, mostRanks: null },
      reason: 'one all-reduce of the gradients an update, beside the backward pass; it can be compressed',
    },
  ];
}

/** For people. */
export const formatQuality = ({ latencyUs, bandwidth }: LinkQuality): string =>
  `${latencyUs.toFixed(latencyUs < 10 ? 1 : 0)} µs and ${bandwidth.toPrecision(3)} GB/s`;

/** Boxes of a two-level all-reduce, and from how many bytes on it is used. */
export interface Hierarchy {
  boxes: readonly (readonly number[])[];
  leastBytes: number;
}

/**
 * Below it, an all-reduce in two levels is not worth its three calls where nothing was measured (docs/networks.md has the table that
 * it follows from).
 */
export const defaultLeastBytes = 2 ** 20;

/** The two levels that an all-reduce has; null: one, because there is one box, or boxes of one rank, or of unequal numbers. */
export function hierarchyOf(boxes: readonly (readonly number[])[], leastBytes = defaultLeastBytes): Hierarchy | null {
  const ranks = boxes[0]?.length ?? 0;
  const fits = boxes.length > 1 && ranks > 1 && boxes.every((box) => box.length === ranks);
  return fits ? { boxes, leastBytes } : null;
}

/** Milliseconds that an all-reduce of so many bytes takes, in one level (a ring through the boxes) and in two. */
export function predictAllReduce(
  { boxes, inside, across }: Topology & { inside: LinkQuality; across: LinkQuality },
  bytes: number,
): { flatMs: number; hierarchicalMs: number } {
  const [count, each] = [boxes.length, boxes[0]?.length ?? 1];
  const ranks = count * each;
  const turn = ({ latencyUs, bandwidth }: LinkQuality, size: number) => latencyUs / 1e3 + size / bandwidth / 1e6;
  // All rings between boxes, one for each place in a box, share the link: together they are a ring of whole boxes.
  const flatMs = 2 * (ranks - 1) * turn(across, bytes / ranks);
  const hierarchicalMs = 2 * (each - 1) * turn(inside, bytes / each) + 2 * (count - 1) * turn(across, bytes / count);
  return { flatMs, hierarchicalMs };
}

/** Bytes (a power of two) from which an all-reduce in two levels is the faster one; null: none up to 1 GiB. */
export function hierarchyPaysFrom(topology: Topology): number | null {
  const { boxes, inside, across } = topology;
  if (inside === null || across === null || hierarchyOf(boxes) === null) return null;
  const isFaster = (bytes: number) => {
    const { flatMs, hierarchicalMs } = predictAllReduce({ ...topology, inside, across }, bytes);
    return hierarchicalMs < flatMs;
  };
  let found: number | null = null;
  for (let bytes = 2 ** 30; bytes >= 256 && isFaster(bytes); bytes /= 2) found = bytes;
  return found;
}
