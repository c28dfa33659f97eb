// The optimizer of a run, as ops of its program: which parameters are updated how.
import type { Graph, Value } from '../graph/graph.js';
import { workingCopyPrefix } from '../passes/working-copies.js';
import { applyAdamw, type OptimizedParameter } from './adamw.js';

/** What updates the weights; see the configuration's `optimizer` for what each field means. Plain data. */
export interface OptimizerConfig {
  kind: 'adamw' | 'lion' | 'muon' | 'sgd';
  beta1: number;
  beta2: number;
  betaSchedule: { beta1End?: number | undefined; beta2End?: number | undefined; power: number } | null;
  eps: number;
  weightDecay: number;
  l4Decay: number;
  momentDtype: 'fp32' | 'bf16';
  lionVariant: 'sign' | 'root';
  momentum: number;
  nesterov: boolean;
  newtonSchulzSteps: number;
  muonLrAdjustment: 'original' | 'match-rms-adamw';
  groups: readonly ParameterGroup[];
  emaDecay: number | null;
  /** Updates of the whole run. */
  steps: number;
}

/** Parameters that are treated otherwise, by pattern of their names. */
export interface ParameterGroup {
  match: string;
  kind?: OptimizerConfig['kind'] | undefined;
  lrRatio?: number | undefined;
  weightDecay?: number | undefined;
  trainable?: boolean | undefined;
}

/** What varies between updates, fp32 [1] each. */
export interface UpdateRates {
  lr: Value;
  /** Factor on the gradients: clipping, and 1 / loss scale. */
  gradScale: Value;
}

/**
 * Updates every parameter by its gradient.
 *
 * @param copies - by parameter, the 16-bit copy of it that programs read
 */
export function applyOptimizer(
  graph: Graph,
  parameters: readonly OptimizedParameter[],
  grads: readonly Value[],
  rates: UpdateRates,
  config: OptimizerConfig,
  copies: ReadonlyMap<string, Value>,
): void {
  applyAdamw(graph, parameters, grads, rates, config, ({ name }) =>
    copies.has(name) ? workingCopyPrefix + name : null,
  );
}
