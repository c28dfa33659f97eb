// The configuration's `precision`.
import { z } from 'zod';
import { count } from '../core/schema.js';

const layerSchema = z.strictObject({
  match: z
    .string()
    .describe('Paths of layers, such as `model.layers.0` or `*.mlp`; `*` any characters, `{a,b}` one of several.'),
  dtype: z.enum(['fp32', 'bf16', 'fp16', 'fp8']).describe('Their number format.'),
});

const lossScaleSchema = z.strictObject({
  initial: z.number().positive().default(32768).describe('Factor of the first update.'),
  growth: z
    .number()
    .min(1)
    .default(2)
    .describe('What it is multiplied with after `growthInterval` updates without overflow.'),
  backoff: z.number().positive().lt(1).default(0.5).describe('What it is multiplied with after an overflow.'),
  growthInterval: count.default(2000).describe('Updates without overflow after which it grows.'),
});

/** Schema of `precision`. */
export const precisionSchema = z.strictObject({
  layers: z
    .array(layerSchema)
    .default([])
    .describe('Layers in another number format than `dtype`; of several that match, the last counts.'),
  lossScale: lossScaleSchema
    .prefault({})
    .describe('Factor of the loss that keeps fp16 gradients in range; it follows their overflows.'),
  fp8Scale: z
    .enum(['float', 'power-of-two'])
    .default('float')
    .describe('What the tiles of fp8 are scaled with: the largest element over 448, or the next power of two.'),
});
