// Latent attention's heads in one pass over memory: attention over q = rotary(x), k = concat(part of kv, rotary(s) for every
// head), v = the rest of kv becomes attention over the results of one op. Runs before differentiation.
import type { Graph, Node, Value } from '../graph/graph.js';
import { attentionOf } from '../ops/attention.js';
import { type LatentHeadsInputs, latentHeads } from '../ops/latent-heads.js';
import { rotaryOf } from '../ops/rotary.js';
import { concatOf, repeated, sliceOf } from '../ops/shape.js';
import { rewrite } from './rewrite.js';
import { soleUsers } from './users.js';

/** Puts `latent-heads` where a model spells it out; what it replaces is left to `prune`. */
export function fuseLatentHeads(source: Graph): Graph {
  const userOf = soleUsers(source);
  return rewrite(source, (node, { graph, of }) => {
    const found = latentHeadsOf(node, (value) => userOf(value) !== null);
    if (!found) return null;
    const { layout, ...inputs } = found;
    const mapped = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, of(value)]));
    const { q, k, v } = latentHeads({ ...(mapped as typeof inputs), layout });
    const sight = node.inputs.slice(3).map((input) => input && of(input));
    return graph.add(node.op, [q, k, v, ...sight], node.attrs);
  });
}

/** What an attention's heads are made of; null where they are made otherwise, or something else reads a value on the way. */
function latentHeadsOf(node: Node, isReadOnce: (value: Value) => boolean): LatentHeadsInputs | null {
  const { q, k, v } = attentionOf(node) ?? {};
  if (!q || !k || !v) return null;
  const query = rotaryOf(q.node);
  const key = concatOf(k.node);
  const value = sliceOf(v.node);
  const [plain, everyHead] = key?.values ?? [];
  if (!query || key?.axis !== 3 || key.values.length !== 2 || !value || !plain || !everyHead) return null;
  const part = sliceOf(plain.node);
  const turned = repeated(everyHead);
  const shared = rotaryOf(turned.node);
  if (!part || !shared || ![q, k, v, plain, everyHead, turned].every(isReadOnce)) return null;

  const { x, cos, sin, positions, layout, offset, inverse } = query;
  const isOneRotation =
    (['cos', 'sin', 'positions', 'layout', 'inverse'] as const).every((of) => query[of] === shared[of]) && !inverse;
  const [dim, nope] = [q.shape[3] as number, plain.shape[3] as number];
  const isTurnedLast = offset === nope && nope + 2 * (cos.shape[1] as number) === dim;
  const isCutInTwo = part.axis === 3 && part.start === 0 && value.axis === 3 && value.start === nope;
  const isWhole = part.x === value.x && value.end === value.x.shape[3];
  const isOfAllHeads = shared.x.shape[2] === 1 && part.x.shape[2] === q.shape[2];
  if (!(isOneRotation && isTurnedLast && isCutInTwo && isWhole && isOfAllHeads)) return null;
  return { q: x, keyValue: part.x, sharedKey: shared.x, cos, sin, positions, layout };
}
