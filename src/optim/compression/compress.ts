// Sums of gradients over the ranks with fewer bytes than they have, as `dist.compression` wants them.
import { invariant } from '../../core/errors.js';
import { compressionScope, type Graph, type Value } from '../../graph/graph.js';
import { allReduce } from '../../ops/collectives.js';
import { type CompressionConfig, type DistConfig, dataRanks } from '../dist-config.js';
import { int8 } from './int8.js';
import type { Method } from './method.js';
import { powerSgd } from './power-sgd.js';
import type { NamedValue } from './residuals.js';
import { rounded } from './rounded.js';
import { topKMethod } from './top-k.js';

const methods: Partial<Record<CompressionConfig['kind'], Method>> = {
  fp16: rounded('fp16'),
  bf16: rounded('bf16'),
  int8,
  topk: topKMethod,
  powersgd: powerSgd,
};

/** Numbers of a gradient below which it travels whole: such are few beside the others, and norms' weights are sensitive. */
const leastSize = 1024;

/**
 * The sum of each gradient over the ranks, the same bits on all of them, sent as `dist.compression` says; vectors, small
 * gradients and those that it would not shorten in fp32. Residuals and what else is remembered are slots.
 *
 * @param gradients - fp32, of this rank
 */
export function compressedSums(graph: Graph, gradients: readonly NamedValue[], dist: DistConfig): Value[] {
  const method = methods[dist.compression.kind];
  invariant(method, `compression '${dist.compression.kind}' has no method`);
  const isCompressed = ({ value: { shape, size } }: NamedValue) =>
    shape.length > 1 && size >= leastSize && method.suits(shape, dist);
  const chosen = gradients.filter(isCompressed);
  const others = gradients.filter((gradient) => !isCompressed(gradient));
  const sums = new Map<NamedValue, Value>();
  const values = others.map(({ value }) => value);
  const whole = allReduce(values, { ...dataRanks(dist), op: 'sum', wire: 'fp32' });
  for (const [i, one] of others.entries()) sums.set(one, whole[i] as Value);
  const compressed = graph.scoped(compressionScope, () => method.sums(graph, chosen, dist));
  for (const [i, value] of compressed.entries()) sums.set(chosen[i] as NamedValue, value);
  return gradients.map((gradient) => sums.get(gradient) as Value);
}
