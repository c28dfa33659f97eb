// Tables of rotary embeddings. Su et al. 2021, arXiv:2104.09864.
// P positions, R rotary dims (even)
import { HadalError } from '../core/errors.js';
import { sizeOf } from '../core/shape.js';
import type { Graph } from '../graph/graph.js';
import type { ModelInputs } from './context.js';
import type { RotaryTables } from './latent-attention.js';
import { inverseFrequencies, type RopeScaling, rotaryMultiplier } from './rope-scaling.js';

/** Tables are made while a model is traced: a config of nonsense must not take the memory of the machine. */
const maxRotaryDims = 65_536;

/** {@link rotaryTables} of every position that can occur, as constants: a row's own positions, or a cache's. */
export function rotaryConstants(
  graph: Graph,
  { tokens, cache }: ModelInputs,
  rotaryDims: number,
  theta: number,
  scaling: RopeScaling | null,
): RotaryTables {
  const positions = cache?.capacity ?? sizeOf(tokens.shape.slice(1));
  const { cos, sin } = rotaryTables(positions, rotaryDims, theta, scaling);
  const shape = [positions, rotaryDims / 2];
  return { cos: graph.constant(cos, shape), sin: graph.constant(sin, shape) };
}

/**
 * Tables for `rotary`: row p holds cos and sin of p · frequency, times {@link rotaryMultiplier}. Computed in float64.
 *
 * @param positions - P
 * @param rotaryDims - R, even
 * @returns two [P, R/2]
 * @throws HadalError HADAL_ERR_CONFIG for more rotary dims than any head has
 */
export function rotaryTables(
  positions: number,
  rotaryDims: number,
  theta: number,
  scaling: RopeScaling | null = null,
): { cos: Float32Array; sin: Float32Array } {
  if (rotaryDims > maxRotaryDims) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[rotary] expected a head of at most ${maxRotaryDims} rotary dims, got ${rotaryDims}; see head_dim or qk_rope_head_dim`,
    );
  }
  const frequencies = inverseFrequencies(rotaryDims, theta, scaling);
  const multiplier = rotaryMultiplier(scaling);
  const pairs = frequencies.length;
  const table = (curve: (angle: number) => number) =>
    Float32Array.from(
      { length: positions * pairs },
      (_, i) => curve(Math.floor(i / pairs) * (frequencies[i % pairs] as number)) * multiplier,
    );
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
