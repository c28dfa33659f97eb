// Which parameters are updated how: what the configuration says for all, and its groups by name.
import { HadalError } from '../core/errors.js';
import { matcherOf } from '../core/name-pattern.js';
import { nearest } from '../core/nearest.js';
import type { OptimizedParameter } from './update-state.js';

/** An optimizer's name. */
export type OptimizerKind = 'adamw' | 'lion' | 'muon' | 'sgd';

/** Parameters that are treated otherwise, by pattern of their names; of several that match, the last counts, field by field. */
export interface ParameterGroup {
  match: string;
  kind?: OptimizerKind | undefined;
  lrRatio?: number | undefined;
  weightDecay?: number | undefined;
  trainable?: boolean | undefined;
}

/** How a parameter is updated. */
export interface ParameterSettings {
  kind: OptimizerKind;
  lrRatio: number;
  weightDecay: number;
  l4Decay: number;
}

/** What groups differ from. */
interface Defaults {
  kind: OptimizerKind;
  weightDecay: number;
  l4Decay: number;
  groups: readonly ParameterGroup[];
}

/** What Muon leaves to AdamW beside vectors: embeddings, the head and routers, factors of theirs, unless a group says otherwise. */
const withoutMuon = ['*{embed_tokens,lm_head,wte,wpe}.*weight', '*.mlp.gate.*weight'].map((match): ParameterGroup => {
  return { match, kind: 'adamw' };
});

/** How each parameter is updated, in the order given. Decay is for matrices, unless a group says otherwise. */
export function settingsOf(
  parameters: readonly OptimizedParameter[],
  { kind, weightDecay, l4Decay, groups }: Defaults,
): ParameterSettings[] {
  const all = [...(kind === 'muon' ? withoutMuon : []), ...groups].map((group) => {
    return { ...group, matches: matcherOf(group.match) };
  });
  return parameters.map(({ name, shape, decay }) => {
    const own = all.filter(({ matches }) => matches(name));
    const last = <Key extends 'kind' | 'lrRatio' | 'weightDecay'>(key: Key) =>
      own.findLast((group) => group[key] !== undefined)?.[key];
    const wanted = last('kind') ?? kind;
    return {
      kind: wanted === 'muon' && shape.length < 2 ? 'adamw' : wanted,
      lrRatio: last('lrRatio') ?? 1,
      weightDecay: last('weightDecay') ?? (decay ? weightDecay : 0),
      l4Decay: decay ? l4Decay : 0,
    };
  });
}

/**
 * The parameters that are trained: all that the model says can be, but for those that a group keeps as they are.
 *
 * @param parameters - all of the model's
 * @throws HadalError HADAL_ERR_CONFIG when a group's pattern matches no parameter
 */
export function trainableParameters<P extends { name: string; trainable: boolean }>(
  parameters: Iterable<P>,
  groups: readonly ParameterGroup[],
): P[] {
  const all = [...parameters];
  const matchers = groups.map((group) => ({ ...group, matches: matcherOf(group.match) }));
  for (const { match, matches } of matchers) {
    if (all.some(({ name }) => matches(name))) continue;
    const names = all.map(({ name }) => name);
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[optimizer] expected a group's pattern that matches a parameter, got '${match}'; take one that fits names like '${nearest(match, names) ?? names[0]}'`,
    );
  }
  return all.filter(({ name, trainable }) => {
    const last = matchers.findLast((group) => group.trainable !== undefined && group.matches(name));
    return trainable && (last?.trainable ?? true);
  });
}
