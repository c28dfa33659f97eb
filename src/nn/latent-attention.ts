// Multi-head latent attention. DeepSeek-V2, arXiv:2405.04434, §2.1; DeepSeek-V3, arXiv:2412.19437, eq. 1–11.
// B batch, T tokens, H heads, D = nope + rope size of a query/key head, E size of a value head, S cache capacity
import type { Value } from '../graph/graph.js';
import { attention } from '../ops/attention.js';
import { type RotaryLayout, rotary } from '../ops/rotary.js';
import { broadcastTo, concat, reshape, slice } from '../ops/shape.js';
import type { ModelInputs } from './context.js';
import { cached } from './key-value-cache.js';
import { linear } from './linear.js';
import { rmsNormLayer } from './norm.js';
import type { Initializer, ParameterScope } from './parameters.js';

/** Sizes and choices of the layer. */
export interface LatentAttentionConfig {
  heads: number;
  /** Rank of the compressed query; null: no compression. */
  qLoraRank: number | null;
  /** Rank of the compressed key and value. */
  kvLoraRank: number;
  qkNopeHeadDim: number;
  qkRopeHeadDim: number;
  vHeadDim: number;
  rotaryLayout: RotaryLayout;
  /** Factor of q·k: D^−½, times YaRN's m². */
  softmaxScale: number;
  initializer: Initializer;
}

/** Tables of `rotary`, [P, rope / 2] each. */
export interface RotaryTables {
  cos: Value;
  sin: Value;
}

/** The latent norms' eps, whatever the config says of the others. */
const latentEps = 1e-6;

/** x [B, T, dim] → [B, T, dim]. */
export function latentAttention(
  scope: ParameterScope,
  x: Value,
  config: LatentAttentionConfig,
  tables: RotaryTables,
  { positions, docIds, cache }: ModelInputs,
): Value {
  const { heads, qkNopeHeadDim: nope, qkRopeHeadDim: rope, vHeadDim, kvLoraRank, initializer } = config;
  const [batch, tokens, dim] = x.shape as [number, number, number];
  const turn = (value: Value, offset: number) =>
    rotary(value, tables.cos, tables.sin, positions, { layout: config.rotaryLayout, offset });

  const q_BTHD = turn(reshape(queries(scope, x, config), [batch, tokens, heads, nope + rope]), nope);

  const compressed = linear(scope, 'kv_a_proj_with_mqa', x, kvLoraRank + rope, initializer);
  const latent = rmsNormLayer(scope, 'kv_a_layernorm', slice(compressed, 2, 0, kvLoraRank), latentEps);
  const sharedKey_BT1R = turn(
    reshape(slice(compressed, 2, kvLoraRank, kvLoraRank + rope), [batch, tokens, 1, rope]),
    0,
  );
  const keyValue = linear(scope, 'kv_b_proj', latent, heads * (nope + vHeadDim), initializer);
  const keyValue_BTHC = reshape(keyValue, [batch, tokens, heads, nope + vHeadDim]);
  const k_BTHD = concat(
    [slice(keyValue_BTHC, 3, 0, nope), broadcastTo(sharedKey_BT1R, [batch, tokens, heads, rope])],
    3,
  );
  const v_BTHE = slice(keyValue_BTHC, 3, nope, nope + vHeadDim);

  const [k, v] = cache ? cached(scope, cache, k_BTHD, v_BTHE) : [k_BTHD, v_BTHE];
  const options = { causal: true, scale: config.softmaxScale, docIds, start: cache?.start ?? null };
  const mixed = reshape(attention(q_BTHD, k, v, options), [batch, tokens, heads * vHeadDim]);
  return linear(scope, 'o_proj', mixed, dim, initializer);
}

function queries(scope: ParameterScope, x: Value, config: LatentAttentionConfig): Value {
  const { heads, qLoraRank, qkNopeHeadDim, qkRopeHeadDim, initializer } = config;
  const size = heads * (qkNopeHeadDim + qkRopeHeadDim);
  if (qLoraRank === null) return linear(scope, 'q_proj', x, size, initializer);
  const latent = rmsNormLayer(scope, 'q_a_layernorm', linear(scope, 'q_a_proj', x, qLoraRank, initializer), latentEps);
  return linear(scope, 'q_b_proj', latent, size, initializer);
}
