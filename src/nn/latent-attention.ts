// Multi-head latent attention. DeepSeek-V2, arXiv:2405.04434, §2.1; DeepSeek-V3, arXiv:2412.19437, eq. 1–11.
// B batch, T tokens, H heads, D = nope + rope size of a query/key head, E size of a value head, R rank of the compressed key and
// value, S cache capacity
import type { Value } from '../graph/graph.js';
import { attention } from '../ops/attention.js';
import { matmul } from '../ops/matmul.js';
import { type RotaryLayout, rotary } from '../ops/rotary.js';
import { broadcastTo, concat, reshape, slice, transpose } from '../ops/shape.js';
import type { CacheInputs, ModelInputs } from './context.js';
import { cached, cachedRows } from './key-value-cache.js';
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
  inputs: ModelInputs,
): Value {
  const { positions, cache } = inputs;
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
  const finish = (mixed_BTHE: Value) =>
    linear(scope, 'o_proj', reshape(mixed_BTHE, [batch, tokens, heads * vHeadDim]), dim, initializer);

  if (cache?.form === 'latent') {
    const entry_BT1C = concat([reshape(latent, [batch, tokens, 1, kvLoraRank]), sharedKey_BT1R], 3);
    const entries_BS1C = cachedRows(scope, cache, 'latent', entry_BT1C);
    if (!cache.isEmpty) return finish(absorbed(scope, q_BTHD, entries_BS1C, config, inputs));
  }

  const keyValue = linear(scope, 'kv_b_proj', latent, heads * (nope + vHeadDim), initializer);
  const keyValue_BTHC = reshape(keyValue, [batch, tokens, heads, nope + vHeadDim]);
  const k_BTHD = concat(
    [slice(keyValue_BTHC, 3, 0, nope), broadcastTo(sharedKey_BT1R, [batch, tokens, heads, rope])],
    3,
  );
  const v_BTHE = slice(keyValue_BTHC, 3, nope, nope + vHeadDim);

  const earlier = cache?.form === 'expanded' ? cache : null;
  const [k, v] = earlier ? cached(scope, earlier, k_BTHD, v_BTHE) : [k_BTHD, v_BTHE];
  return finish(attention(q_BTHD, k, v, sight(config, inputs, earlier)));
}

const sight = ({ softmaxScale }: LatentAttentionConfig, { docIds }: ModelInputs, cache: CacheInputs | null) => ({
  causal: true,
  scale: softmaxScale,
  docIds,
  start: cache?.start ?? null,
});

/**
 * Attention over compressed keys and values, which all heads share: W_UK is multiplied into the query, W_UV into the result,
 * so that neither is expanded. DeepSeek-V2, §2.1.2.
 *
 * @param q - [B, T, H, D]
 * @param entries - [B, S, 1, R + rope], normed latents and rotated shared keys
 * @returns [B, T, H, E]
 */
function absorbed(
  scope: ParameterScope,
  q: Value,
  entries: Value,
  config: LatentAttentionConfig,
  inputs: ModelInputs,
): Value {
  const { heads, qkNopeHeadDim: nope, qkRopeHeadDim: rope, vHeadDim, kvLoraRank, initializer } = config;
  const [batch, tokens] = q.shape as [number, number];
  // One product a head.
  const byHead = (x: Value) => transpose(reshape(x, [batch * tokens, heads, -1]), [1, 0, 2]);
  const fromHeads = (x: Value) => reshape(transpose(x, [1, 0, 2]), [batch, tokens, heads, -1]);
  const weight = scope.parameter('kv_b_proj.weight', [heads * (nope + vHeadDim), kvLoraRank], initializer);
  const up_HCR = reshape(weight, [heads, nope + vHeadDim, kvLoraRank]);

  const latentQuery = fromHeads(matmul(byHead(slice(q, 3, 0, nope)), slice(up_HCR, 1, 0, nope)));
  const query = concat([latentQuery, slice(q, 3, nope, nope + rope)], 3);
  const options = { ...sight(config, inputs, inputs.cache), valueDim: kvLoraRank };
  const mixed_BTHR = attention(query, entries, null, options);
  const upValue = slice(up_HCR, 1, nope, nope + vHeadDim);
  return fromHeads(matmul(byHead(mixed_BTHR), upValue, { transposeB: true }));
}

function queries(scope: ParameterScope, x: Value, config: LatentAttentionConfig): Value {
  const { heads, qLoraRank, qkNopeHeadDim, qkRopeHeadDim, initializer } = config;
  const size = heads * (qkNopeHeadDim + qkRopeHeadDim);
  if (qLoraRank === null) return linear(scope, 'q_proj', x, size, initializer);
  const latent = rmsNormLayer(scope, 'q_a_layernorm', linear(scope, 'q_a_proj', x, qLoraRank, initializer), latentEps);
  return linear(scope, 'q_b_proj', latent, size, initializer);
}
