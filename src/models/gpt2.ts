// GPT-2. Radford et al. 2019; module names and the [in, out] layout are those of the published weights.
// B batch, T tokens, D hidden size, H heads
import { z } from 'zod';
import { count } from '../core/schema.js';
import type { Value } from '../graph/graph.js';
import type { ModelInputs, ModelOutput } from '../nn/context.js';
import { cached } from '../nn/key-value-cache.js';
import { conv1d } from '../nn/linear.js';
import { layerNormLayer } from '../nn/norm.js';
import type { ParameterScope } from '../nn/parameters.js';
import { attention } from '../ops/attention.js';
import { add, gelu } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { dropout } from '../ops/random.js';
import { reshape, slice } from '../ops/shape.js';
import { configError, parseConfig, snakeCase } from './hugging-face-config.js';
import type { Model } from './model.js';

const probability = z.number().min(0).lt(1);

const schema = z.object({
  vocabSize: count,
  nPositions: count.default(1024),
  nEmbd: count,
  nLayer: count.max(10_000),
  nHead: count,
  /** Width of the MLP; null: 4 · nEmbd. */
  nInner: count.nullable().default(null),
  layerNormEpsilon: z.number().positive().max(1).default(1e-5),
  initializerRange: z.number().positive().default(0.02),
  embdPdrop: probability.default(0.1),
  attnPdrop: probability.default(0.1),
  residPdrop: probability.default(0.1),
  bosTokenId: z.number().int().nonnegative().nullable().default(null),
  eosTokenId: z.number().int().nonnegative().nullable().default(null),
});

/** Configuration of a GPT-2 model; fields carry the names of config.json in camel case. */
export type Gpt2Config = z.output<typeof schema>;

const otherKeys = new Set(
  `activation_function reorder_and_upcast_attn scale_attn_by_inverse_layer_idx scale_attn_weights summary_activation
   summary_first_dropout summary_proj_to_labels summary_type summary_use_proj add_cross_attention n_ctx
   tie_word_embeddings task_specific_params`.split(/\s+/),
);
const onlyValues = {
  activation_function: 'gelu_new',
  scale_attn_weights: true,
  scale_attn_by_inverse_layer_idx: false,
  add_cross_attention: false,
  tie_word_embeddings: true,
};

function check(config: Gpt2Config, source: string): Gpt2Config {
  if (config.nEmbd % config.nHead !== 0)
    throw configError(source, 'n_head', `a divisor of n_embd ${config.nEmbd}`, config.nHead);
  return config;
}

/** Reads a `config.json` of model_type gpt2. @throws HadalError HADAL_ERR_CONFIG naming the field */
export function gpt2FromHuggingFace(json: Record<string, unknown>, source: string): Gpt2Config {
  return check(parseConfig(source, json, schema, { derived: {}, otherKeys, onlyValues }), source);
}

/** A GPT-2 model of the given configuration. Attention weights are not dropped out: they are never in memory. */
export function gpt2(config: Gpt2Config): Model {
  return {
    family: 'gpt2',
    vocabSize: config.vocabSize,
    maxPositions: config.nPositions,
    mtpDepth: 0,
    activeExpertShare: 1,
    attentionWidth: 2 * config.nEmbd,
    layers: config.nLayer,
    forward: (scope, inputs) => forward(config, scope, inputs),
    toHuggingFace: () => ({
      architectures: ['GPT2LMHeadModel'],
      model_type: 'gpt2',
      ...snakeCase(config),
      activation_function: 'gelu_new',
      tie_word_embeddings: true,
      use_cache: true,
    }),
  };
}

function forward(config: Gpt2Config, scope: ParameterScope, inputs: ModelInputs): ModelOutput {
  const { vocabSize, nPositions, nEmbd, nLayer, initializerRange, layerNormEpsilon } = config;
  const initializer = { kind: 'normal', std: initializerRange } as const;
  let streams = 0;
  const drop = (x: Value, p: number) =>
    inputs.dropoutKey && p > 0 ? dropout(x, inputs.dropoutKey, { probability: p, stream: streams++ }) : x;

  const model = scope.child('transformer');
  const table = model.parameter('wte.weight', [vocabSize, nEmbd], initializer);
  const places = model.parameter('wpe.weight', [nPositions, nEmbd], initializer);
  let x_BTD = drop(add(embedding(table, inputs.tokens), embedding(places, inputs.positions)), config.embdPdrop);
  for (let i = 0; i < nLayer; i++) x_BTD = model.within(`h.${i}`, (s) => block(s, config, x_BTD, inputs, drop));
  return { hidden: layerNormLayer(model, 'ln_f', x_BTD, layerNormEpsilon), head: table, mtpHidden: [], routers: [] };
}

function block(
  scope: ParameterScope,
  config: Gpt2Config,
  x: Value,
  { docIds, cache }: ModelInputs,
  drop: (x: Value, p: number) => Value,
): Value {
  const { nEmbd, nHead, nLayer, layerNormEpsilon: eps, initializerRange: std, residPdrop } = config;
  const [batch, tokens] = x.shape as [number, number, number];
  const initializer = { kind: 'normal', std } as const;
  // Projections into the residual stream begin smaller, so that its variance does not grow with depth.
  const residual = { kind: 'normal', std: std / Math.sqrt(2 * nLayer) } as const;
  const headDim = nEmbd / nHead;

  const attended = scope.within('attn', (s) => {
    const qkv = conv1d(s, 'c_attn', layerNormLayer(scope, 'ln_1', x, eps), 3 * nEmbd, initializer);
    const [q, k, v] = [0, 1, 2].map((i) =>
      reshape(slice(qkv, 2, i * nEmbd, (i + 1) * nEmbd), [batch, tokens, nHead, headDim]),
    ) as [Value, Value, Value];
    const [keys, values] = cache ? cached(s, cache, k, v) : [k, v];
    const options = { causal: true, scale: headDim ** -0.5, docIds, start: cache?.start ?? null };
    const mixed = reshape(attention(q, keys, values, options), [batch, tokens, nEmbd]);
    return conv1d(s, 'c_proj', mixed, nEmbd, residual);
  });
  const h = add(x, drop(attended, residPdrop));
  const mixed = scope.within('mlp', (s) => {
    const inner = gelu(
      conv1d(s, 'c_fc', layerNormLayer(scope, 'ln_2', h, eps), config.nInner ?? 4 * nEmbd, initializer),
    );
    return conv1d(s, 'c_proj', inner, nEmbd, residual);
  });
  return add(h, drop(mixed, residPdrop));
}
