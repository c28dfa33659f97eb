// One update, top to bottom. Traced once; everything that changes between updates is an input or a slot.
//
// An update of one micro-batch is one program, 'whole'. An update of several is a schedule of three: 'first' writes
// gradients into slots, 'next' (repeated) adds to them, 'apply' updates.
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
import type { DistConfig } from '../optim/dist-config.js';
import { applyEma } from '../optim/ema.js';
import { trainableParameters } from '../optim/groups.js';
import { type LossScaleConfig, readLossScale, updateLossScale } from '../optim/loss-scale.js';
import { applyOptimizer, type OptimizerConfig } from '../optim/optimizer.js';
import { expectLayers, type Precision } from '../passes/narrow.js';
import { runForwardPasses } from '../passes/pipeline.js';
import { markLayerOutputs } from '../passes/watch.js';
import { copiedSlots, readWorkingCopies, refreshWorkingCopies, type WorkingCopy } from '../passes/working-copies.js';
import { bestDType } from '../runtime/best-dtype.js';
import { type LossScales, languageModelLoss, lossScales, plus } from './losses.js';
import type { OffloadConfig } from './offload.js';

/** Which program of an update's schedule. */
export type StepPart = 'whole' | 'first' | 'next' | 'apply';

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

/** What a micro-batch contributes to an update; also the slots that sum it, by name. */
type Contribution = Map<string, Value>;

/** The terms of the loss, fp32 [1] each. */
interface Terms {
  main: Value;
  mtp: Value;
  balance: Value;
}

/** Traces one program of an update. */
export function traceStep(model: Model, config: StepConfig, part: StepPart): Graph {
  const parameters = parametersOf(model);
  const traced = traceForward(model, config);
  expectLayers(traced, config.precision);
  if (config.watchesActivations && (part === 'whole' || part === 'first')) markLayerOutputs(traced);
  const forward = runForwardPasses(traced, config.precision);
  const copies = copiedSlots(forward);
  if (part === 'apply') {
    const graph = new Graph();
    const sums = [...backward(forward, parameters, config)].map(
      ([name, { shape, dtype }]) => [name, graph.slot(name, shape, dtype)] as const,
    );
    applyUpdate(graph, parameters, new Map(sums), copies, config);
    return graph;
  }

  const contribution = backward(forward, parameters, config);
  if (part === 'whole') applyUpdate(forward, parameters, contribution, copies, config);
  else {
    for (const [name, value] of contribution) {
      const slot = forward.slot(name, value.shape, value.dtype);
      forward.update(name, part === 'first' ? value : add(slot, value));
    }
  }
  return readWorkingCopies(forward);
}

/** Traces what makes the 16-bit copies of weights that steps and evaluations read. */
export function traceWorkingCopies(model: Model, config: StepConfig): Graph {
  return refreshWorkingCopies(copiedSlots(runForwardPasses(traceForward(model, config), config.precision)));
}

const trainableOf = (parameters: ReadonlyMap<string, Parameter>, { optimizer }: StepConfig) =>
  trainableParameters(parameters.values(), optimizer.groups);

/** Fetch and forward: the terms of the loss and the routers' loads, as outputs. */
function traceForward(model: Model, config: StepConfig): Graph {
  const graph = new Graph();
  const inputs = {
    ...batchInputs(graph, config.batch, config.seqLen, model.mtpDepth),
    dropoutKey: graph.input('key', [2], 'int32'),
  };
  const output = model.forward(new ParameterScope(graph, new Map()), inputs);
  const scales = scaledUp(lossScales(graph, model.mtpDepth), config.lossScale && readLossScale(graph));
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
  const { main, mtp, balance, ...loads } = Object.fromEntries(graph.outputs) as Record<string, Value> & Terms;
  graph.outputs.clear();
  const trainable = trainableOf(parameters, config);
  const grads = gradients(
    add(add(main, mtp), balance),
    trainable.map(({ name, shape, dtype }) => graph.slot(name, shape, dtype)),
  );
  return new Map<string, Value>([
    ...trainable.map(({ name }, i): [string, Value] => [`gradient/${name}`, grads[i] as Value]),
    ...Object.entries(loads),
    ['losses', concat([main, mtp, balance], 0)],
  ]);
}

/** Clip, check that all is finite, update, report. A gradient that is not finite changes nothing but the loss scale. */
function applyUpdate(
  graph: Graph,
  parameters: ReadonlyMap<string, Parameter>,
  summed: Contribution,
  copies: ReadonlyMap<string, WorkingCopy>,
  config: StepConfig,
): void {
  const trainable = trainableOf(parameters, config);
  const grads = trainable.map(({ name }) => summed.get(`gradient/${name}`) as Value);
  const loads = [...summed].filter(([name]) => name.startsWith('load/'));

  const lossScale = config.lossScale && readLossScale(graph);
  const clipped = clip(graph, grads, lossScale, config.clip);
  const allFinite = finite(clipped.norm);
  const isSound = multiply(allFinite, lessEqual(clipped.norm, graph.input('skipAbove', [1], 'fp32')));
  graph.predicated(cast(isSound, 'int32'), () => {
    const rates = { lr: graph.input('lr', [1], 'fp32'), gradScale: clipped.scale };
    applyOptimizer(graph, trainable, clipped.grads, rates, config.optimizer, copies, bestDType());
    for (const [name, load] of loads) balanceRouter(graph, parameters, name.slice('load/'.length), load);
    rememberNorm(graph, clipped.norm, config.clip);
    if (config.optimizer.emaDecay !== null) applyEma(graph, parameters, config.optimizer.emaDecay);
  });
  if (config.lossScale) updateLossScale(graph, allFinite, config.lossScale);

  const terms = summed.get('losses') as Value;
  const losses = lossScale ? divide(terms, lossScale) : terms;
  const report = [losses, clipped.norm, clipped.clippedNorm, isSound, allFinite, lossScale ?? fill(graph, [1], 1)];
  graph.output('metrics', concat(report, 0));
  for (const [name, load] of loads) graph.output(name, load);
}

/** DeepSeek-V3, §2.1.2: the bias of an overloaded expert falls by γ, that of an underloaded one rises. */
function balanceRouter(graph: Graph, parameters: ReadonlyMap<string, Parameter>, layer: string, load: Value): void {
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
  config: Pick<StepConfig, 'batch' | 'seqLen' | 'precision' | 'chunkRows'>,
): Graph {
  const graph = new Graph();
  const inputs = batchInputs(graph, config.batch, config.seqLen, 0);
  const output = model.forward(new ParameterScope(graph, new Map()), inputs);
  const scales = { main: fill(graph, [1], 1), mtp: [], balance: fill(graph, [1], 0) };
  graph.output('loss', languageModelLoss(output, inputs, scales, { ...config, labelSmoothing: 0, zLoss: 0 }).main);
  return readWorkingCopies(runForwardPasses(graph, config.precision));
}
