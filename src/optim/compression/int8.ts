// Gradients in 8-bit integers, block by block. Dettmers 2015, arXiv:1511.04561; two roundings, as each rank sums a part of the
// numbers in fp32: QSGD's all-reduce by all-to-all and all-gather (Alistarh et al. 2016, arXiv:1610.02132).
import { sizeOf } from '../../core/shape.js';
import { allGather, allToAll } from '../../ops/collectives.js';
import { dequantizeBlocks, partBytes, quantizeBlocks, sumBlocks } from '../../ops/quantize-blocks.js';
import { dataRanks } from '../dist-config.js';
import type { Method } from './method.js';
import { keepResidual, residualOf } from './residuals.js';

/** 1.01 bytes a number. What the sum's rounding takes is fed back by the rank that rounds it. */
export const int8: Method = {
  // Parts are whole blocks: of few numbers or many ranks, most of them would be padding.
  suits: (shape, { worldSize }) => 2 * worldSize * partBytes(sizeOf(shape), worldSize) <= 4 * sizeOf(shape),
  sums(graph, gradients, dist) {
    const { rank, worldSize: ranks, compression } = dist;
    const own = gradients.map(({ name, value: grad }) => {
      const residual = compression.errorFeedback ? residualOf(graph, name, grad.shape) : null;
      return { name, grad, residual, sent: quantizeBlocks(grad, residual, ranks) };
    });
    const received = allToAll(
      own.map(({ sent }) => sent),
      dataRanks(dist),
    );
    const parts = received.map((messages, i) => {
      const { name, grad, residual, sent } = own[i] as (typeof own)[number];
      const attrs = { ranks, rank, count: grad.size };
      const part = sumBlocks(messages, residual && { sent, grad, residual }, attrs);
      if (part.residual) keepResidual(graph, name, part.residual);
      return { share: part.message, shape: [ranks, part.message.size] };
    });
    const messages = allGather(parts, dataRanks(dist));
    return gradients.map(({ value }, i) =>
      dequantizeBlocks(messages[i] as (typeof messages)[number], value.shape, ranks),
    );
  },
};
