// DeepSeek-V2 and V3. arXiv:2405.04434, arXiv:2412.19437. Module names are those of the published weights.
// B batch, T tokens, D hidden size, V vocabulary
import type { Value } from '../graph/graph.js';
import type { ModelInputs, ModelOutput, RouterRecord } from '../nn/context.js';
import { latentAttention, type RotaryTables } from '../nn/latent-attention.js';
import { linear } from '../nn/linear.js';
import { mixtureOfExperts } from '../nn/mixture-of-experts.js';
import { gatedMlp } from '../nn/mlp.js';
import { rmsNormLayer } from '../nn/norm.js';
import type { ParameterScope } from '../nn/parameters.js';
import { softmaxScaleFactor } from '../nn/rope-scaling.js';
import { rotaryConstants } from '../nn/rotary-tables.js';
import { add } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { concat } from '../ops/shape.js';
import { type DeepseekConfig, deepseekToHuggingFace } from './deepseek-config.js';
import type { Model } from './model.js';

/** A DeepSeek model of the given configuration. */
export function deepseek(config: DeepseekConfig): Model {
  const { numAttentionHeads: heads, qkNopeHeadDim, qkRopeHeadDim, vHeadDim } = config;
  return {
    family: config.family,
    vocabSize: config.vocabSize,
    maxPositions: config.maxPositionEmbeddings,
    mtpDepth: config.numNextnPredictLayers,
    activeExpertShare: config.numExpertsPerTok / config.nRoutedExperts,
    attentionWidth: heads * (qkNopeHeadDim + qkRopeHeadDim + vHeadDim),
    layers: config.numHiddenLayers + config.numNextnPredictLayers,
    hasLatentCache: true,
    forward: (scope, inputs) => forward(config, scope, inputs),
    predictAhead: (scope, inputs, depth, previous) => {
      const shared = sharedParts(config, scope, inputs);
      const { tokens } = inputs;
      return { ...predictionModule(config, scope, shared, depth, previous, tokens), head: shared.head };
    },
    toHuggingFace: () => deepseekToHuggingFace(config),
  };
}

function forward(config: DeepseekConfig, scope: ParameterScope, inputs: ModelInputs): ModelOutput {
  const shared = sharedParts(config, scope, inputs);
  const { table, head, routers } = shared;

  let x_BTD = embedding(table, inputs.tokens);
  for (let i = 0; i < config.numHiddenLayers; i++)
    x_BTD = scope.within(`model.layers.${i}`, (s) => shared.decoder(s, i, x_BTD));
  const hidden = rmsNormLayer(scope.child('model'), 'norm', x_BTD, config.rmsNormEps);

  const state = config.mtpHidden === 'pre-norm' ? x_BTD : hidden;
  const mtpHidden: Value[] = [];
  let previous = state;
  for (const [k, tokens] of inputs.mtpTokens.entries()) {
    const module = predictionModule(config, scope, shared, k + 1, previous, tokens);
    mtpHidden.push(module.hidden);
    previous = module.state;
  }
  return { hidden, head, state, mtpHidden, routers };
}

/** What the model and its prediction modules have in common. */
interface SharedParts {
  /** [V, D], the embedding. */
  table: Value;
  /** [V, D]. */
  head: Value;
  /** Layer `index`, x [B, T, D] → [B, T, D]. */
  decoder: (scope: ParameterScope, index: number, x: Value) => Value;
  /** What the decoders' routers did. */
  routers: RouterRecord[];
}

function sharedParts(config: DeepseekConfig, scope: ParameterScope, inputs: ModelInputs): SharedParts {
  const { vocabSize, hiddenSize } = config;
  const initializer = { kind: 'normal', std: config.initializerRange } as const;
  const tables = rotaryConstants(scope.graph, inputs, config.qkRopeHeadDim, config.ropeTheta, config.yarn);
  const routers: RouterRecord[] = [];
  const record = (router: RouterRecord) => routers.push(router);
  const table = scope.child('model').parameter('embed_tokens.weight', [vocabSize, hiddenSize], initializer);
  const head = config.tieWordEmbeddings
    ? table
    : scope.parameter('lm_head.weight', [vocabSize, hiddenSize], initializer);
  return { table, head, routers, decoder: (s, index, x) => decoderLayer(s, config, index, x, inputs, tables, record) };
}

/**
 * Multi-token prediction: module k sees the state of module k − 1 and the token k further on. V3 paper, §2.2; the order
 * [embedding; state] is that of the published weights.
 */
function predictionModule(
  config: DeepseekConfig,
  scope: ParameterScope,
  { table, decoder }: SharedParts,
  depth: number,
  previous: Value,
  tokens: Value,
): { hidden: Value; state: Value } {
  const { hiddenSize, rmsNormEps } = config;
  const initializer = { kind: 'normal', std: config.initializerRange } as const;
  const index = config.numHiddenLayers + depth - 1;
  const path = `model.layers.${index}`;
  const out = scope.within(path, (s) => {
    s.copyOf('model.embed_tokens.weight', 'embed_tokens.weight');
    s.copyOf(config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight', 'shared_head.head.weight');
    const next = rmsNormLayer(s, 'enorm', embedding(table, tokens), rmsNormEps);
    const joined = concat([next, rmsNormLayer(s, 'hnorm', previous, rmsNormEps)], 2);
    return decoder(s, index, linear(s, 'eh_proj', joined, hiddenSize, initializer));
  });
  const hidden = rmsNormLayer(scope.child(path), 'shared_head.norm', out, rmsNormEps);
  return { hidden, state: config.mtpHidden === 'pre-norm' ? out : hidden };
}

function decoderLayer(
  scope: ParameterScope,
  config: DeepseekConfig,
  index: number,
  x: Value,
  inputs: ModelInputs,
  tables: RotaryTables,
  record: (router: RouterRecord) => void,
): Value {
  const { rmsNormEps, nSharedExperts, nRoutedExperts } = config;
  const initializer = { kind: 'normal', std: config.initializerRange } as const;
  const { qkNopeHeadDim, qkRopeHeadDim } = config;

  const attended = scope.within('self_attn', (s) =>
    latentAttention(
      s,
      rmsNormLayer(scope, 'input_layernorm', x, rmsNormEps),
      {
        ...config,
        heads: config.numAttentionHeads,
        softmaxScale: (qkNopeHeadDim + qkRopeHeadDim) ** -0.5 * softmaxScaleFactor(config.yarn),
        initializer,
      },
      tables,
      inputs,
    ),
  );
  const h = add(x, attended);
  const normed = rmsNormLayer(scope, 'post_attention_layernorm', h, rmsNormEps);
  const isSparse = index >= config.firstKDenseReplace && index % config.moeLayerFreq === 0;
  const mixed = scope.within('mlp', (s) =>
    isSparse
      ? mixtureOfExperts(
          s,
          normed,
          {
            experts: nRoutedExperts,
            sharedExperts: nSharedExperts,
            intermediate: config.moeIntermediateSize,
            router: routerOptions(config),
            correctionBias: config.family === 'deepseek_v3',
            initializer,
          },
          inputs.docIds,
          record,
        )
      : gatedMlp(s, normed, config.intermediateSize, initializer),
  );
  return add(h, mixed);
}

function routerOptions(config: DeepseekConfig) {
  const isV3 = config.family === 'deepseek_v3';
  const grouped = isV3 || config.topkMethod === 'group_limited_greedy';
  return {
    topK: config.numExpertsPerTok,
    groups: grouped ? config.nGroup : 1,
    topGroups: grouped ? config.topkGroup : 1,
    scoring: isV3 ? 'sigmoid' : 'softmax',
    normalize: config.normTopkProb,
    scalingFactor: config.routedScalingFactor,
    groupScore: isV3 ? 'top2sum' : 'max',
  } as const;
}
