// How programs read parameters that lie in shards.
import type { Graph, Value } from '../graph/graph.js';
import type { Parameter } from '../nn/parameters.js';
import { cast } from '../ops/elementwise.js';
import type { DistConfig } from '../optim/dist-config.js';
import { type ParameterGroup, trainableParameters } from '../optim/groups.js';
import { gathered, isSharded, readShard, type WholeSlot } from '../optim/zero.js';
import { rewrite } from '../passes/rewrite.js';
import { gatherReads } from '../passes/shard-parameters.js';
import { copiedSlots, readWorkingCopies, type WorkingCopy, workingCopyPrefix } from '../passes/working-copies.js';

/** Names of the parameters that lie in shards where any do: those that are trained. */
export const trainedNames = (
  parameters: ReadonlyMap<string, Parameter>,
  { optimizer }: { optimizer: { groups: readonly ParameterGroup[] } },
): Set<string> => new Set(trainableParameters(parameters.values(), optimizer.groups).map(({ name }) => name));

/**
 * Lets a graph read parameters as they are there: from working copies; from what is gathered after each update, as little of it
 * as it reads (ZeRO stages 1 and 2); or from shards (stage 3).
 *
 * @param trained - as of {@link trainedNames}
 */
export function readStored(graph: Graph, trained: ReadonlySet<string>, dist: DistConfig | null): Graph {
  if (!isSharded(dist)) return readWorkingCopies(graph);
  if (dist.zero < 3) return withoutUnread(readWorkingCopies(graph), trained);
  const frozen = new Map([...copiedSlots(graph)].filter(([name]) => !trained.has(name)));
  return gatherReads(readWorkingCopies(graph, frozen), trained, (target, parameter, dtype) =>
    gathered(cast(readShard(target, parameter, dist), dtype), parameter.shape, dist),
  );
}

/** Slots in which programs read trained parameters whole, to be gathered after each update. */
export function wholeSlots(forward: Graph, trained: ReadonlySet<string>, dist: DistConfig): WholeSlot[] {
  return [...readStored(forward, trained, dist).slots].flatMap(([slot, { shape, dtype }]) => {
    const parameter = slot.startsWith(workingCopyPrefix) ? slot.slice(workingCopyPrefix.length) : slot;
    return trained.has(parameter) ? [{ slot, parameter, shape, dtype: dtype as WholeSlot['dtype'] }] : [];
  });
}

/** Drops slots that a graph neither reads nor updates. */
function withoutUnread(graph: Graph, droppable: ReadonlySet<string>): Graph {
  const read = new Set<Value | null>([...graph.nodes.flatMap(({ inputs }) => inputs), ...graph.outputs.values()]);
  return rewrite(graph, (node) => {
    const name = node.op.isSource ? (node.attrs.name as string) : '';
    const value = graph.slots.get(name);
    return value?.node === node && droppable.has(name) && !read.has(value) && !graph.updates.has(name) ? 'drop' : null;
  });
}

/** In which forms programs read the trained parameters, so that an update makes them. */
export interface ReadForms {
  copies: ReadonlyMap<string, WorkingCopy>;
  /** Where parameters lie in shards: all there are. */
  wholes: readonly WholeSlot[];
}

export function readForms(
  forward: Graph,
  trained: ReadonlySet<string>,
  { dist }: { dist: DistConfig | null },
): ReadForms {
  if (isSharded(dist)) return { copies: new Map(), wholes: wholeSlots(forward, trained, dist) };
  return { copies: copiedSlots(forward), wholes: [] };
}
