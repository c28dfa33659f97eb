// Mixture of experts with shared experts. DeepSeekMoE, arXiv:2401.06066; V3's router, arXiv:2412.19437, eq. 12–16.
// No token is dropped: the experts' rows are as uneven as the router makes them.
import type { Value } from '../graph/graph.js';
import { add, cast } from '../ops/elementwise.js';
import { groupedMatmul } from '../ops/grouped-matmul.js';
import { matmul } from '../ops/matmul.js';
import { expertOrder, permute, unpermute } from '../ops/permute.js';
import { type RouterOptions, router } from '../ops/router.js';
import { reshape } from '../ops/shape.js';
import { swiglu } from '../ops/swiglu.js';
import type { RouterRecord } from './context.js';
import { gatedMlp } from './mlp.js';
import type { Initializer, ParameterScope } from './parameters.js';

/** Sizes and choices of the layer. */
export interface MixtureOfExpertsConfig {
  experts: number;
  sharedExperts: number;
  /** Width of one expert. */
  intermediate: number;
  router: RouterOptions;
  /** Whether choices are corrected by a bias that balances the experts (V3). */
  correctionBias: boolean;
  initializer: Initializer;
}

/**
 * x [B, T, D] → [B, T, D].
 *
 * @param docIds - int32 [B, T]: padding (−1) goes to no expert
 * @param record - told what the router did
 */
export function mixtureOfExperts(
  scope: ParameterScope,
  x: Value,
  config: MixtureOfExpertsConfig,
  docIds: Value | null,
  record: (router: RouterRecord) => void,
): Value {
  const { experts: count, sharedExperts, intermediate, initializer } = config;
  const dim = x.shape.at(-1) as number;
  const x_TD = reshape(x, [-1, dim]);

  const gate = scope.parameter('gate.weight', [count, dim], initializer);
  const bias = config.correctionBias
    ? scope.parameter('gate.e_score_correction_bias', [count], { kind: 'zeros' }, { trainable: false, dtype: 'fp32' })
    : null;
  const logits_TE = matmul(cast(x_TD, 'fp32'), cast(gate, 'fp32'), { transposeB: true });
  const mask = docIds && reshape(docIds, [-1]);
  const { weights, experts, scores } = router(logits_TE, bias, mask, config.router);
  const biasName = bias && scope.join('gate.e_score_correction_bias');
  record({ layer: scope.path, experts, scores, options: config.router, bias: biasName });

  const order = expertOrder(experts, { experts: count });
  const rows_RD = permute(x_TD, order);
  const expertParts = (names: readonly string[], shape: readonly number[]) => ({
    routed: true,
    parts: Array.from({ length: count }, (_, e) =>
      names.map((name) => ({ name: `experts.${e}.${name}.weight`, shape })),
    ).flat(),
  });
  const gateUp = scope.parameter(
    'experts.gate_up_proj',
    [count, 2 * intermediate, dim],
    initializer,
    expertParts(['gate_proj', 'up_proj'], [intermediate, dim]),
  );
  const down = scope.parameter(
    'experts.down_proj',
    [count, dim, intermediate],
    initializer,
    expertParts(['down_proj'], [dim, intermediate]),
  );
  const hidden = swiglu(groupedMatmul(rows_RD, gateUp, order.offsets, { transposeB: true }));
  const expertRows = groupedMatmul(hidden, down, order.offsets, { transposeB: true });
  const routed = reshape(unpermute(expertRows, order, weights), x.shape);
  if (sharedExperts === 0) return routed;
  return add(
    routed,
    scope.within('shared_experts', (s) => gatedMlp(s, x, sharedExperts * intermediate, initializer)),
  );
}
