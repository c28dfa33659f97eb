// One update, top to bottom. Traced once; everything that changes between updates is an input or a slot.
//
// An update of one micro-batch is one program, 'whole'. An update of several is a schedule of three: 'first' writes
// gradients into slots, 'next' (repeated) adds to them, 'apply' updates. Where several processes train together, 'last' is
// both of the last two, so that gradients travel while the last of them are computed.
import { gradients } from '../autodiff/gradients.js';
import { Graph, type Value } from '../graph/graph.js';
import { batchInputs, type Model, parametersOf } from '../models/model.js';
import { type Parameter, ParameterScope } from '../nn/parameters.js';
import { add, cast, divide, finite, lessEqual, multiply, sign, subtract } from '../ops/elementwise.js';
import { mean, sum } from '../ops/reduce.js';
import { expertCounts } from '../ops/router.js';
import { concat } from '../ops/shape.js';
import { fill } from '../ops/sources.js';
import { type ClipConfig, clip, rememberNorm } from '../optim/clipping.js';
import { ageResiduals, residualNorm } from '../optim/compression/residuals.js';
import type { DistConfig } from '../optim/dist-config.js';
import { applyEma } from '../optim/ema.js';
import { trainableParameters } from '../optim/groups.js';
import { type LossScaleConfig, readLossScale, updateLossScale } from '../optim/loss-scale.js';
import { applyOptimizer, type OptimizerConfig } from '../optim/optimizer.js';
import { gradientPrefix } from '../optim/reduce-gradients.js';
import { asShards, gatherWholes, isSharded, readShard, shardPrefix, type WholeSlot } from '../optim/zero.js';
import { expectLayers, type Precision } from '../passes/narrow.js';
import { runForwardPasses } from '../passes/pipeline.js';
import { markLayerOutputs } from '../passes/watch.js';
import { copiedSlots, refreshWorkingCopies } from '../passes/working-copies.js';
import { bestDType } from '../runtime/best-dtype.js';
import {
  addedToSlots,
  type Contribution,
  globalCounts,
  normOf,
  othersIn,
  overAllProcesses,
  reduced,
  scattered,
} from './contribution.js';
import { type LossScales, languageModelLoss, lossScales, plus } from './losses.js';
import type { OffloadConfig } from './offload.js';
import { type ReadForms, readForms, readStored, trainedNames } from './shards.js';

/** Which program of an update's schedule. */
export type StepPart = 'whole' | 'first' | 'next' | 'last' | 'apply';

/** What is fixed when the step is traced. */
export interface StepConfig {
  /** Rows a micro-batch, and tokens a row. */
  batch: number;
  seqLen: number;
  labelSmoothing: number;
  zLoss: number;
  /** Rows whose logits exist at a time; 0: as many as run fastest. */
  chunkRows: number;
  /** Of activations and of the copies of weights that products read; the parameters themselves are fp32. */
  precision: Precision;
  /** How gradients are kept within the range of fp16; null: where nothing is computed in it. */
  lossScale: LossScaleConfig | null;
  clip: ClipConfig;
  optimizer: OptimizerConfig;
  /** What of the forward pass is computed once more in the backward pass. */
  activationCheckpointing: 'none' | 'selective' | 'sqrt' | 'auto' | { every: number };
  /** Whether the outputs of layers are measured where an update asks for it: of its first micro-batch. */
  watchesActivations: boolean;
  /** What lies in a file. */
  offload: OffloadConfig;
  /** The processes that train together; null: this one alone. */
  dist: DistConfig | null;
}

/** What 'metrics' holds, in this order. */
export const metricNames = [
  'main',
  'mtp',
  'balance',
  'gradNorm',
  'clippedNorm',
  'isSound',
  'allFinite',
  'lossScale',
] as const;

/** The terms of the loss, fp32 [1] each. */
interface Terms {
  main: Value;
  mtp: Value;
  balance: Value;
}

/** Traces one program of an update. */
export function traceStep(model: Model, config: StepConfig, part: StepPart): Graph {
  const parameters = parametersOf(model);
  const traced = traceForward(model, config, part);
  expectLayers(traced, config.precision);
  if (config.watchesActivations && (part === 'whole' || part === 'first')) markLayerOutputs(traced);
  const forward = runForwardPasses(traced, config.precision);
  const trained = trainedNames(parameters, config);
  const read = readForms(forward, trained, config);
  if (part === 'apply') {
    const graph = new Graph();
    const sums = [...backward(forward, parameters, config)].map(
      ([name, { shape, dtype }]) => [name, graph.slot(name, shape, dtype)] as const,
    );
    applyUpdate(graph, parameters, new Map(sums), read, config);
    return graph;
  }

  const { dist } = config;
  const made = backward(forward, parameters, config);
  const own = dist && dist.zero >= 2 ? scattered(made, dist) : made;
  const sums = part === 'next' || part === 'last' ? addedToSlots(forward, own) : own;
  const isUpdate = part === 'whole' || part === 'last';
  const summed = isUpdate && dist ? reduced(forward, sums, dist) : sums;
  if (isUpdate) applyUpdate(forward, parameters, summed, read, config);
  if (part !== 'whole') {
    // Shards of whole gradients have no slots: these stay what they were made of.
    const left = dist?.zero === 1 ? new Map([...sums, ...othersIn(summed)]) : summed;
    for (const [name, { shape, dtype }] of left) forward.slot(name, shape, dtype);
    for (const [name, value] of left) forward.update(name, value);
  }
  return readStored(forward, trained, dist);
}

/** Traces what makes of the weights all that steps and evaluations read in their place: copies in 16 bits, wholes of shards. */
export function traceWorkingCopies(model: Model, config: StepConfig): Graph {
  const { dist } = config;
  const forward = runForwardPasses(traceForward(model, config), config.precision);
  const trained = trainedNames(parametersOf(model), config);
  const isOwn = (name: string) => !isSharded(dist) || !trained.has(name);
  const graph = refreshWorkingCopies(new Map([...copiedSlots(forward)].filter(([name]) => isOwn(name))));
  if (!isSharded(dist)) return graph;
  const { wholes } = readForms(forward, trained, config);
  gatherWholes(graph, wholes, ({ parameter, shape }) => readShard(graph, { name: parameter, shape }, dist), dist);
  return graph;
}

const trainableOf = (parameters: ReadonlyMap<string, Parameter>, { optimizer }: StepConfig) =>
  trainableParameters(parameters.values(), optimizer.groups);

/** Fetch and forward: the terms of the loss and the routers' loads, as outputs. */
function traceForward(model: Model, config: StepConfig, part: StepPart = 'whole'): Graph {
  const graph = new Graph();
  const inputs = {
    ...batchInputs(graph, config.batch, config.seqLen, model.mtpDepth),
    dropoutKey: graph.input('key', [2], 'int32'),
  };
  const output = model.forward(new ParameterScope(graph, new Map()), inputs);
  const given = lossScales(graph, model.mtpDepth);
  const means = config.dist ? overAllProcesses(given, globalCounts(graph, part, model.mtpDepth, config.dist)) : given;
  const scales = scaledUp(means, config.lossScale && readLossScale(graph));
  const { main, mtp, balance } = languageModelLoss(output, inputs, scales, config);
  const zero = fill(graph, [1], 0);
  graph.output('main', main);
  graph.output('mtp', mtp.reduce<Value | null>(plus, null) ?? zero);
  graph.output('balance', balance ?? zero);
  for (const { layer, experts, scores } of output.routers) {
    const load = expertCounts(experts, { groups: 1, experts: scores.shape.at(-1) as number });
    graph.output(`load/${layer}`, load);
  }
  return graph;
}

/**
 * Loss scaling begins with the scales of the terms, not with the loss: gradients that are made within the forward pass are
 * scaled then, too.
 */
function scaledUp(scales: LossScales, factor: Value | null): LossScales {
  if (!factor) return scales;
  const { main, mtp, balance } = scales;
  const times = (scale: Value) => multiply(scale, factor);
  return { main: times(main), mtp: mtp.map(times), balance: times(balance) };
}

/** Backward through a forward graph, whose outputs become the micro-batch's contribution. */
function backward(graph: Graph, parameters: ReadonlyMap<string, Parameter>, config: StepConfig): Contribution {
  const { main, mtp, balance, counts, ...loads } = Object.fromEntries(graph.outputs) as Record<string, Value> & Terms;
  graph.outputs.clear();
  if (counts) graph.output('counts', counts);
  const losses = concat([main, mtp, balance], 0);
  const trainable = trainableOf(parameters, config);
  const grads = gradients(
    add(add(main, mtp), balance),
    trainable.map(({ name, shape, dtype }) => graph.slot(name, shape, dtype)),
  );
  return new Map<string, Value>([
    ...trainable.map(({ name }, i): [string, Value] => [`${gradientPrefix}${name}`, grads[i] as Value]),
    ...Object.entries(loads),
    ['losses', losses],
  ]);
}

/** Clip, check that all is finite, update, report. A gradient that is not finite changes nothing but the loss scale. */
function applyUpdate(
  graph: Graph,
  parameters: ReadonlyMap<string, Parameter>,
  summed: Contribution,
  { copies, wholes }: ReadForms,
  config: StepConfig,
): void {
  const { dist } = config;
  const trainable = trainableOf(parameters, config);
  const grads = trainable.map(({ name }) => summed.get(`${gradientPrefix}${name}`) as Value);
  const loads = [...summed].filter(([name]) => name.startsWith('load/'));

  const lossScale = config.lossScale && readLossScale(graph);
  const clipped = clip(graph, grads, lossScale, config.clip, (values) => normOf(values, dist));
  const allFinite = finite(clipped.norm);
  const isSound = multiply(allFinite, lessEqual(clipped.norm, graph.input('skipAbove', [1], 'fp32')));
  graph.predicated(cast(isSound, 'int32'), () => {
    const rates = { lr: graph.input('lr', [1], 'fp32'), gradScale: clipped.scale };
    const updated = isSharded(dist) ? asShards(trainable, config.optimizer, dist) : trainable;
    applyOptimizer(graph, updated, clipped.grads, rates, config.optimizer, copies, bestDType());
    for (const [name, load] of loads) balanceRouter(graph, parameters, name.slice('load/'.length), load);
    rememberNorm(graph, clipped.norm, config.clip);
    if (config.optimizer.emaDecay !== null) applyEma(graph, parameters, config.optimizer.emaDecay);
    const next = ({ parameter }: WholeSlot) => graph.updates.get(shardPrefix + parameter) as Value;
    if (isSharded(dist)) gatherWholes(graph, wholes, next, dist);
  });
  if (config.lossScale) updateLossScale(graph, allFinite, config.lossScale);
  ageResiduals(graph, isSound, lossScale);

  const terms = summed.get('losses') as Value;
  const losses = lossScale ? divide(terms, lossScale) : terms;
  const report = [losses, clipped.norm, clipped.clippedNorm, isSound, allFinite, lossScale ?? fill(graph, [1], 1)];
  graph.output('metrics', concat(report, 0));
  const residual = residualNorm(graph);
  if (residual) graph.output('residualNorm', residual);
  for (const [name, load] of loads) graph.output(name, load);
}

/** DeepSeek-V3, §2.1.2: the bias of an overloaded expert falls by γ, that of an underloaded one rises. */
export function balanceRouter(
  graph: Graph,
  parameters: ReadonlyMap<string, Parameter>,
  layer: string,
  load: Value,
): void {
  const name = `${layer}.gate.e_score_correction_bias`;
  if (!parameters.has(name)) return;
  const experts = load.shape[1] as number;
  const speed = graph.input('routerBiasSpeed', [1], 'fp32');
  const lack = subtract(mean(load, [1], true), load);
  graph.update(name, add(graph.slot(name, [experts], 'fp32'), multiply(sum(sign(lack), [0]), speed)));
}

/** Evaluation: the summed cross-entropy of the main head. */
export function traceEvaluation(
  model: Model,
  config: Pick<StepConfig, 'batch' | 'seqLen' | 'precision' | 'chunkRows' | 'optimizer' | 'dist'>,
): Graph {
  const graph = new Graph();
  const inputs = batchInputs(graph, config.batch, config.seqLen, 0);
  const output = model.forward(new ParameterScope(graph, new Map()), inputs);
  const scales = { main: fill(graph, [1], 1), mtp: [], balance: fill(graph, [1], 0) };
  graph.output('loss', languageModelLoss(output, inputs, scales, { ...config, labelSmoothing: 0, zLoss: 0 }).main);
  const forward = runForwardPasses(graph, config.precision);
  return readStored(forward, trainedNames(parametersOf(model), config), config.dist);
}
