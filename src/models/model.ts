import type { DType } from '../core/dtype.js';
import { sizeOf } from '../core/shape.js';
import { Graph, type Value } from '../graph/graph.js';
import type { ModelInputs, ModelOutput, PredictionOutput } from '../nn/context.js';
import { type Parameter, ParameterScope } from '../nn/parameters.js';
import type { Economy } from './economy-config.js';

/** A model family with its numbers filled in: what `train`, sessions and `inspect` work on. */
export interface Model {
  /** `model_type` of its Hugging Face config. */
  readonly family: string;
  readonly vocabSize: number;
  /** Longest sequence, in tokens. */
  readonly maxPositions: number;
  /** Multi-token-prediction modules. */
  readonly mtpDepth: number;
  /** Share of the routed experts a token uses; 1 without experts. */
  readonly activeExpertShare: number;
  /** Size of q·k per position and layer: heads · (key size + value size), for attention's share of the flops. */
  readonly attentionWidth: number;
  readonly layers: number;
  /** Whether its caches can keep compressed keys and values; absent: no. */
  readonly hasLatentCache?: boolean;
  /** What of its weights is shared or stored as products, and the model without; absent: nothing. */
  readonly economy?: Economy & { readonly of: Model };
  /** Traces the forward pass, declaring parameters as it goes. */
  forward(scope: ParameterScope, inputs: ModelInputs): ModelOutput;
  /**
   * Traces one module of multi-token prediction alone. There where `mtpDepth` is above 0.
   *
   * @param inputs - as of `forward`, but the tokens are those `depth` further on
   * @param depth - 1 … mtpDepth
   * @param previous - [B, T, D], `state` of the module before, or of `forward`
   */
  predictAhead?(scope: ParameterScope, inputs: ModelInputs, depth: number, previous: Value): PredictionOutput;
  /** Its Hugging Face `config.json`. */
  toHuggingFace(): Record<string, unknown>;
}

/** Every parameter of a model, by name, without allocating anything. */
export function parametersOf(model: Model, dtype: DType = 'fp32'): Map<string, Parameter> {
  const graph = new Graph();
  const parameters = new Map<string, Parameter>();
  const ids = (name: string): Value => graph.input(name, [1, 1], 'int32');
  const mtpTokens = Array.from({ length: model.mtpDepth }, (_, k) => ids(`mtpTokens${k + 1}`));
  model.forward(new ParameterScope(graph, parameters, '', dtype), {
    tokens: ids('tokens'),
    positions: ids('positions'),
    docIds: null,
    mtpTokens,
    cache: null,
    dropoutKey: null,
  });
  return parameters;
}

/** Inputs of a graph that reads packed rows, by the names batches are bound under. */
export function batchInputs(graph: Graph, batch: number, tokens: number, mtpDepth: number): ModelInputs {
  const ids = (name: string) => graph.input(name, [batch, tokens], 'int32');
  return {
    tokens: ids('tokens'),
    positions: ids('positions'),
    docIds: ids('docIds'),
    mtpTokens: Array.from({ length: mtpDepth }, (_, k) => ids(`mtpTokens${k + 1}`)),
    cache: null,
    dropoutKey: null,
  };
}

/** Number of weights, and how many of them one token passes through. */
export function parameterCounts(model: Model): { total: number; active: number } {
  let total = 0;
  let active = 0;
  for (const { shape, routed } of parametersOf(model).values()) {
    total += sizeOf(shape);
    active += sizeOf(shape) * (routed ? model.activeExpertShare : 1);
  }
  return { total, active: Math.round(active) };
}
