// The greatest numbers of each gradient with their places. Aji & Heafield 2017, arXiv:1704.05021; Lin et al. 2017,
// arXiv:1712.01887.
import { sizeOf } from '../../core/shape.js';
import type { Value } from '../../graph/graph.js';
import { allGather } from '../../ops/collectives.js';
import { topK, topKSum } from '../../ops/top-k.js';
import { dataRanks } from '../dist-config.js';
import type { Method } from './method.js';
import { keepResidual, residualOf } from './residuals.js';

/** Numbers that are sent of `size`. */
export const keptOf = (size: number, density: number): number => Math.max(1, Math.floor(size * density));

/** 6 bytes for each number that is sent. */
export const topKMethod: Method = {
  suits: (shape, { compression }) => 6 * keptOf(sizeOf(shape), compression.density) < 4 * sizeOf(shape),
  sums(graph, gradients, dist) {
    const { density, errorFeedback } = dist.compression;
    const kept = gradients.map(({ value }) => keptOf(value.size, density));
    const sent = gradients.map(({ name, value }, i) => {
      const given = errorFeedback ? residualOf(graph, name, value.shape) : null;
      const { message, residual } = topK(value, given, kept[i] as number);
      if (residual) keepResidual(graph, name, residual);
      return { share: message, shape: [dist.worldSize, message.size] };
    });
    const messages = allGather(sent, dataRanks(dist));
    return gradients.map(({ value }, i) => topKSum(messages[i] as Value, value.shape, kept[i] as number));
  },
};
