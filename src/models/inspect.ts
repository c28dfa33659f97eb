// What a model is made of, counted from its traced graph. Nothing is allocated, so the largest models can be looked at.
import { sizeOf } from '../core/shape.js';
import { Graph, type Value } from '../graph/graph.js';
import { type Parameter, ParameterScope } from '../nn/parameters.js';
import { type Model, parametersOf } from './model.js';

/** Sums over a model's parameters. */
export interface ModelTotals {
  parameters: number;
  /** Parameters a token passes through: of the routed experts, the share it is sent to. */
  activeParameters: number;
  /**
   * Floating-point operations of forward and backward for one token of a training row: 6 a multiplied parameter (tables
   * that are only looked up are not multiplied) and 6 · layers · heads · (key + value size) · T for attention, the causal
   * mask not taken into account, as PaLM (arXiv:2204.02311, appendix B) and torchtitan count.
   */
  flopsPerToken: number;
}

/** A part of the model, over all its layers. */
export interface ModelGroup {
  name: string;
  tensors: number;
  parameters: number;
  activeParameters: number;
}

/** What `inspect` finds. */
export interface ModelCounts {
  family: string;
  vocabSize: number;
  /** Decoder layers, multi-token-prediction modules not counted. */
  layers: number;
  maxPositions: number;
  /** Tokens a row that `flopsPerToken` is for. */
  seqLen: number;
  /** The model as it generates: without multi-token-prediction modules. */
  model: ModelTotals;
  /** The model as it is trained, with them; null where it has none. */
  withMtp: ModelTotals | null;
  groups: ModelGroup[];
}

/** Names tell the parts apart: those of the Hugging Face modules of all families. The first that fits counts. */
const groupRules: readonly (readonly [group: string, names: RegExp])[] = [
  ['embedding', /embed_tokens|\bwte\b|\bwpe\b/],
  ['output head', /lm_head/],
  ['attention', /self_attn|\battn\b/],
  ['shared experts', /shared_experts/],
  ['routed experts', /\.experts\./],
  ['router', /\.gate\./],
  ['dense layers', /\bmlp\b/],
  ['norms', /norm|\bln_/],
];

/**
 * Counts parameters and work of a model.
 *
 * @param seqLen - T, tokens a row
 */
export function countModel(model: Model, seqLen: number): ModelCounts {
  const [plain, whole] = [traced(model, 0), traced(model, model.mtpDepth)];
  const layers = model.layers - model.mtpDepth;
  return {
    family: model.family,
    vocabSize: model.vocabSize,
    layers,
    maxPositions: model.maxPositions,
    seqLen,
    model: totals(model, plain, layers, seqLen),
    withMtp: model.mtpDepth > 0 ? totals(model, whole, model.layers, seqLen) : null,
    groups: groupsOf(model, plain.parameters, whole.parameters),
  };
}

interface TracedModel {
  parameters: Map<string, Parameter>;
  /** Multiplied parameters a token passes through, each as often as it is multiplied. */
  multiplied: number;
}

/** The forward pass of one token, with its first `mtpDepth` multi-token-prediction modules. */
function traced(model: Model, mtpDepth: number): TracedModel {
  const graph = new Graph();
  const parameters = new Map<string, Parameter>();
  const ids = (name: string): Value => graph.input(name, [1, 1], 'int32');
  const output = model.forward(new ParameterScope(graph, parameters), {
    tokens: ids('tokens'),
    positions: ids('positions'),
    docIds: null,
    mtpTokens: Array.from({ length: mtpDepth }, (_, k) => ids(`mtpTokens${k + 1}`)),
    cache: null,
    dropoutKey: null,
  });
  const stored = storedSizes(model, graph, parameters);
  const sizeOfHead = stored.get(output.head) ?? output.head.size;
  let multiplied = sizeOfHead * (1 + output.mtpHidden.length);
  for (const node of graph.nodes) {
    if (!node.op.cost || node.op.cost(node.inputs, node.outputs, node.attrs).flops === 0) continue;
    // What makes weights of weights is not counted: they are where they are used.
    if (stored.has(node.outputs[0] as Value)) continue;
    for (const input of node.inputs) if (input && input.shape.length > 1) multiplied += stored.get(input) ?? 0;
  }
  return { parameters, multiplied };
}

/** Of values that are made of parameters alone: how many of their numbers a token passes through. */
function storedSizes(model: Model, graph: Graph, parameters: ReadonlyMap<string, Parameter>): Map<Value, number> {
  const found = new Map<Value, number>();
  for (const [name, slot] of graph.slots) found.set(slot, activeSize(model, parameters.get(name) as Parameter));
  for (const { inputs, outputs } of graph.nodes) {
    const sizes = inputs.map((input) => (input ? found.get(input) : undefined));
    if (sizes.length === 0 || sizes.some((size) => size === undefined)) continue;
    const size = sizes.reduce<number>((sum, one) => sum + (one ?? 0), 0);
    for (const output of outputs) found.set(output, size);
  }
  return found;
}

function totals(model: Model, { parameters, multiplied }: TracedModel, layers: number, seqLen: number): ModelTotals {
  return {
    parameters: parameterCount(parameters.values()),
    activeParameters: activeParameterCount(model, parameters.values()),
    flopsPerToken: 6 * multiplied + 6 * layers * model.attentionWidth * seqLen,
  };
}

/** Number of parameters. */
function parameterCount(parameters: Iterable<Parameter>): number {
  return [...parameters].reduce((count, { shape }) => count + sizeOf(shape), 0);
}

/** Number of parameters a token passes through. @param parameters - all of the model's unless given */
export function activeParameterCount(
  model: Model,
  parameters: Iterable<Parameter> = parametersOf(model).values(),
): number {
  return [...parameters].reduce((count, parameter) => count + activeSize(model, parameter), 0);
}

function activeSize(model: Model, { shape, routed }: Parameter): number {
  return sizeOf(shape) * (routed ? model.activeExpertShare : 1);
}

function groupsOf(
  model: Model,
  plain: ReadonlyMap<string, Parameter>,
  whole: ReadonlyMap<string, Parameter>,
): ModelGroup[] {
  const groups = new Map<string, ModelGroup>();
  for (const [name, parameter] of whole) {
    const group = plain.has(name)
      ? (groupRules.find(([, names]) => names.test(name))?.[0] ?? 'other')
      : 'multi-token prediction';
    const sum = groups.get(group) ?? { name: group, tensors: 0, parameters: 0, activeParameters: 0 };
    sum.tensors += parameter.parts.length;
    sum.parameters += sizeOf(parameter.shape);
    sum.activeParameters += activeSize(model, parameter);
    groups.set(group, sum);
  }
  return [...groups.values()];
}
