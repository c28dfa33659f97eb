// The dense Llama family. Touvron et al. 2023, arXiv:2302.13971; Qwen2, arXiv:2407.10671; Mistral, arXiv:2310.06825.
// Module names are those of the published weights.
// B batch, T tokens, D hidden size
import type { Value } from '../graph/graph.js';
import type { ModelInputs, ModelOutput } from '../nn/context.js';
import { groupedQueryAttention } from '../nn/grouped-query-attention.js';
import type { RotaryTables } from '../nn/latent-attention.js';
import { gatedMlp } from '../nn/mlp.js';
import { rmsNormLayer } from '../nn/norm.js';
import type { ParameterScope } from '../nn/parameters.js';
import { rotaryConstants } from '../nn/rotary-tables.js';
import { add } from '../ops/elementwise.js';
import { embedding } from '../ops/embedding.js';
import { type LlamaConfig, llamaToHuggingFace } from './llama-config.js';
import type { Model } from './model.js';

/** A Llama, Qwen2 or Mistral model of the given configuration. */
export function llama(config: LlamaConfig): Model {
  return {
    family: config.family,
    vocabSize: config.vocabSize,
    maxPositions: config.maxPositionEmbeddings,
    mtpDepth: 0,
    activeExpertShare: 1,
    attentionWidth: 2 * config.numAttentionHeads * config.headDim,
    layers: config.numHiddenLayers,
    forward: (scope, inputs) => forward(config, scope, inputs),
    toHuggingFace: () => llamaToHuggingFace(config),
  };
}

function forward(config: LlamaConfig, scope: ParameterScope, inputs: ModelInputs): ModelOutput {
  const { vocabSize, hiddenSize, numHiddenLayers, rmsNormEps } = config;
  const initializer = { kind: 'normal', std: config.initializerRange } as const;
  const tables = rotaryConstants(scope.graph, inputs, config.headDim, config.ropeTheta, config.ropeScaling);

  const model = scope.child('model');
  const table = model.parameter('embed_tokens.weight', [vocabSize, hiddenSize], initializer);
  let x_BTD = embedding(table, inputs.tokens);
  for (let i = 0; i < numHiddenLayers; i++) {
    x_BTD = model.within(`layers.${i}`, (s) => decoderLayer(s, config, x_BTD, inputs, tables));
  }
  const hidden = rmsNormLayer(model, 'norm', x_BTD, rmsNormEps);
  const head = config.tieWordEmbeddings
    ? table
    : scope.parameter('lm_head.weight', [vocabSize, hiddenSize], initializer);
  return { hidden, head, mtpHidden: [], routers: [] };
}

function decoderLayer(
  scope: ParameterScope,
  config: LlamaConfig,
  x: Value,
  inputs: ModelInputs,
  tables: RotaryTables,
): Value {
  const { numAttentionHeads, numKeyValueHeads, headDim, rmsNormEps, attentionBias, mlpBias } = config;
  const initializer = { kind: 'normal', std: config.initializerRange } as const;
  const attended = scope.within('self_attn', (s) =>
    groupedQueryAttention(
      s,
      rmsNormLayer(scope, 'input_layernorm', x, rmsNormEps),
      {
        heads: numAttentionHeads,
        kvHeads: numKeyValueHeads,
        headDim,
        qkvBias: attentionBias || config.family === 'qwen2',
        outputBias: attentionBias,
        initializer,
      },
      tables,
      inputs,
    ),
  );
  const h = add(x, attended);
  const normed = rmsNormLayer(scope, 'post_attention_layernorm', h, rmsNormEps);
  const mixed = scope.within('mlp', (s) =>
    gatedMlp(s, normed, config.intermediateSize, initializer, { bias: mlpBias }),
  );
  return add(h, mixed);
}
