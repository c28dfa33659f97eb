// One update, top to bottom. Traced once; everything that changes between updates is an input or a slot.
//
// An update of one micro-batch is one program, 'whole'. An update of several is a schedule of three: 'first' writes
// gradients into slots, 'next' (repeated) adds to them, 'apply' updates.
import { gradients } from '../autodiff/gradients.js';
import { Graph, type Value } from '../graph/graph.js';
import { batchInputs, type Model, parametersOf } from '../models/model.js';
import { type Parameter, ParameterScope } from '../nn/parameters.js';
import { add, cast, finite, multiply, sign, subtract } from '../ops/elementwise.js';
import { mean, sum } from '../ops/reduce.js';
import { expertCounts } from '../ops/router.js';
import { concat } from '../ops/shape.js';
import { fill } from '../ops/sources.js';
import { type AdamwConfig, applyAdamw } from '../optim/adamw.js';
import { clipScale, globalNorm } from '../optim/clipping.js';
import { languageModelLoss, lossScales, plus } from './losses.js';

/** Which program of an update's schedule. */
export type StepPart = 'whole' | 'first' | 'next' | 'apply';

/** What is fixed when the step is traced. */
export interface StepConfig {
  /** Rows a micro-batch, and tokens a row. */
  batch: number;
  seqLen: number;
  labelSmoothing: number;
  zLoss: number;
  clipNorm: number;
  adamw: AdamwConfig;
}

/** What a micro-batch contributes to an update; also the slots that sum it, by name. */
type Contribution = Map<string, Value>;

/** Traces one program of an update. */
export function traceStep(model: Model, config: StepConfig, part: StepPart): Graph {
  const graph = new Graph();
  const parameters = parametersOf(model);

  if (part === 'whole') {
    applyUpdate(graph, parameters, forwardBackward(graph, model, config, parameters), config);
  } else if (part === 'apply') {
    const summed = new Map(
      contributionSlots(model, config).map(([name, shape]) => [name, graph.slot(name, shape, 'fp32')]),
    );
    applyUpdate(graph, parameters, summed, config);
  } else {
    for (const [name, value] of forwardBackward(graph, model, config, parameters)) {
      const slot = graph.slot(name, value.shape, value.dtype);
      graph.update(name, part === 'first' ? value : add(slot, value));
    }
  }
  return graph;
}

const trainableOf = (parameters: ReadonlyMap<string, Parameter>) =>
  [...parameters.values()].filter((parameter) => parameter.trainable);

/** Fetch, forward, backward. */
function forwardBackward(
  graph: Graph,
  model: Model,
  config: StepConfig,
  parameters: ReadonlyMap<string, Parameter>,
): Contribution {
  const trainable = trainableOf(parameters);
  const scope = new ParameterScope(graph, new Map());
  const inputs = {
    ...batchInputs(graph, config.batch, config.seqLen, model.mtpDepth),
    dropoutKey: graph.input('key', [2], 'int32'),
  };
  const output = model.forward(scope, inputs);
  const terms = languageModelLoss(output, inputs, lossScales(graph, model.mtpDepth), config);

  const mtp = terms.mtp.reduce<Value | null>(plus, null);
  const loss = plus(plus(terms.main, mtp), terms.balance) as Value;
  const grads = gradients(
    loss,
    trainable.map(({ name, shape, dtype }) => graph.slot(name, shape, dtype)),
  );

  const zero = fill(graph, [1], 0);
  return new Map<string, Value>([
    ...trainable.map(({ name }, i): [string, Value] => [`gradient/${name}`, grads[i] as Value]),
    ...output.routers.map(({ layer, experts, scores }): [string, Value] => [
      `load/${layer}`,
      expertCounts(experts, { groups: 1, experts: scores.shape.at(-1) as number }),
    ]),
    ['losses', concat([terms.main, mtp ?? zero, terms.balance ?? zero], 0)],
  ]);
}

/** Clip, check that all is finite, update, report. A gradient that is not finite changes nothing. */
function applyUpdate(
  graph: Graph,
  parameters: ReadonlyMap<string, Parameter>,
  summed: Contribution,
  config: StepConfig,
): void {
  const trainable = trainableOf(parameters);
  const grads = trainable.map(({ name }) => summed.get(`gradient/${name}`) as Value);
  const loads = [...summed].filter(([name]) => name.startsWith('load/'));

  const gradNorm = globalNorm(grads);
  const gradScale = clipScale(gradNorm, config.clipNorm);
  const isSound = finite(gradNorm);
  graph.predicated(cast(isSound, 'int32'), () => {
    applyAdamw(graph, trainable, grads, { lr: graph.input('lr', [1], 'fp32'), gradScale }, config.adamw);
    for (const [name, load] of loads) balanceRouter(graph, parameters, name.slice('load/'.length), load);
  });

  graph.output('metrics', concat([summed.get('losses') as Value, gradNorm, isSound], 0));
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

/** Names and shapes of the slots that sum micro-batches. */
export function contributionSlots(model: Model, config: StepConfig): [name: string, shape: readonly number[]][] {
  const traced = traceStep(model, config, 'first');
  return [...traced.updates].map(([name, value]) => [name, value.shape]);
}

/** Evaluation: the summed cross-entropy of the main head. */
export function traceEvaluation(model: Model, config: Pick<StepConfig, 'batch' | 'seqLen'>): Graph {
  const graph = new Graph();
  const inputs = batchInputs(graph, config.batch, config.seqLen, 0);
  const output = model.forward(new ParameterScope(graph, new Map()), inputs);
  const scales = { main: fill(graph, [1], 1), mtp: [], balance: fill(graph, [1], 0) };
  graph.output('loss', languageModelLoss(output, inputs, scales, { labelSmoothing: 0, zLoss: 0 }).main);
  return graph;
}
