// The optimizer of a run, as ops of its program: which parameters are updated how.
import { HadalError } from '../core/errors.js';
import type { Graph, Value } from '../graph/graph.js';
import { applyAdamw } from './adamw.js';
import { endOf } from './beta-schedule.js';
import { type OptimizerKind, type ParameterGroup, settingsOf } from './groups.js';
import { applyLion } from './lion.js';
import { applyMuon } from './muon.js';
import { applySgd } from './sgd.js';
import {
  countUpdate,
  type OptimizedParameter,
  type Updated,
  type UpdateRates,
  type WorkingCopy,
} from './update-state.js';

/** What updates the weights; see the configuration's `optimizer` for what each field means. Plain data. */
export interface OptimizerConfig {
  kind: OptimizerKind;
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

/** Of β in bf16: what a greater one takes off a moment is less than half the distance of neighbouring numbers, and is lost. */
const greatestBf16Beta = 0.99;

/**
 * Updates every parameter by its gradient.
 *
 * @param copies - by parameter, the 16-bit copy of it that programs read
 * @param productDtype - of Muon's products
 * @throws HadalError HADAL_ERR_CONFIG when moments in bf16 could not follow β
 */
export function applyOptimizer(
  graph: Graph,
  parameters: readonly OptimizedParameter[],
  grads: readonly Value[],
  rates: UpdateRates,
  config: OptimizerConfig,
  copies: ReadonlyMap<string, WorkingCopy>,
  productDtype: 'fp32' | 'bf16' = 'fp32',
): void {
  refuseLostUpdates(config);
  const updates = countUpdate(graph);
  const settings = settingsOf(parameters, config);
  const updated = (kind: OptimizerKind): Updated[] =>
    parameters.flatMap((parameter, i) => {
      const { kind: own, ...factors } = settings[i] as (typeof settings)[number];
      if (own !== kind) return [];
      return [{ parameter, grad: grads[i] as Value, copy: copies.get(parameter.name) ?? null, ...factors }];
    });
  applyWhere(updated('adamw'), (some) => applyAdamw(graph, some, rates, config, updates));
  applyWhere(updated('lion'), (some) => applyLion(graph, some, rates, config, updates));
  applyWhere(updated('muon'), (some) => applyMuon(graph, some, rates, { ...config, productDtype }));
  applyWhere(updated('sgd'), (some) => applySgd(graph, some, rates, config));
}

function applyWhere(updated: readonly Updated[], apply: (updated: readonly Updated[]) => void): void {
  if (updated.length > 0) apply(updated);
}

function refuseLostUpdates(config: OptimizerConfig): void {
  const { beta1, beta2, momentDtype } = config;
  const { beta1End, beta2End } = endOf(config);
  const greatest = Math.max(beta1, beta2, beta1End, beta2End);
  if (momentDtype === 'fp32' || greatest <= greatestBf16Beta) return;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[optimizer] expected beta1 and beta2 of at most ${greatestBf16Beta} where momentDtype is bf16, whose rounding loses the steps of slower means, got ${greatest}; lower it, or take momentDtype fp32`,
  );
}
