// Grouped-query attention. Ainslie et al. 2023, arXiv:2305.13245: several heads share a key and a value.
// B batch, T tokens, H heads, G key/value heads (a divisor of H), D size of a head, P positions
import type { Value } from '../graph/graph.js';
import { attention } from '../ops/attention.js';
import { rotary } from '../ops/rotary.js';
import { reshape } from '../ops/shape.js';
import type { ModelInputs } from './context.js';
import { cached } from './key-value-cache.js';
import type { RotaryTables } from './latent-attention.js';
import { linear } from './linear.js';
import type { Initializer, ParameterScope } from './parameters.js';

/** Sizes and choices of the layer. */
export interface GroupedQueryAttentionConfig {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Whether the projections of query, key and value have biases. */
  qkvBias: boolean;
  /** Whether the output's projection has one. */
  outputBias: boolean;
  initializer: Initializer;
}

/**
 * x [B, T, dim] → [B, T, dim].
 *
 * @param tables - [P, D / 2] each; dims j and j + D/2 turn together
 */
export function groupedQueryAttention(
  scope: ParameterScope,
  x: Value,
  config: GroupedQueryAttentionConfig,
  tables: RotaryTables,
  { positions, docIds, cache }: ModelInputs,
): Value {
  const { heads, kvHeads, headDim, qkvBias, outputBias, initializer } = config;
  const [batch, tokens, dim] = x.shape as [number, number, number];
  const project = (name: string, count: number) => {
    const flat = linear(scope, name, x, count * headDim, initializer, { bias: qkvBias });
    return reshape(flat, [batch, tokens, count, headDim]);
  };
  const turn = (value: Value) => rotary(value, tables.cos, tables.sin, positions, { layout: 'half' });

  const q_BTHD = turn(project('q_proj', heads));
  const k_BTGD = turn(project('k_proj', kvHeads));
  const v_BTGD = project('v_proj', kvHeads);
  const [k, v] = cache ? cached(scope, cache, k_BTGD, v_BTGD) : [k_BTGD, v_BTGD];
  const options = { causal: true, scale: headDim ** -0.5, docIds, start: cache?.start ?? null };
  const mixed = reshape(attention(q_BTHD, k, v, options), [batch, tokens, heads * headDim]);
  return linear(scope, 'o_proj', mixed, dim, initializer, { bias: outputBias });
}
