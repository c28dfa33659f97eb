import type { Value } from '../graph/graph.js';
import { add } from '../ops/elementwise.js';
import { matmul } from '../ops/matmul.js';
import { swiglu } from '../ops/swiglu.js';
import { linear } from './linear.js';
import type { Initializer, ParameterScope } from './parameters.js';

/** Gated MLP: down(silu(gate(x)) · up(x)). Gate and up are one product in memory, two tensors on disk. */
export function gatedMlp(
  scope: ParameterScope,
  x: Value,
  intermediate: number,
  initializer: Initializer,
  { bias = false } = {},
): Value {
  const dim = x.shape.at(-1) as number;
  const both = (kind: 'weight' | 'bias', shape: readonly number[], from: Initializer) =>
    scope.parameter(`gate_up_proj.${kind}`, [2 * intermediate, ...shape], from, {
      parts: ['gate_proj', 'up_proj'].map((name) => ({ name: `${name}.${kind}`, shape: [intermediate, ...shape] })),
    });
  const gateUp = matmul(x, both('weight', [dim], initializer), { transposeB: true });
  const hidden = swiglu(bias ? add(gateUp, both('bias', [], { kind: 'zeros' })) : gateUp);
  return linear(scope, 'down_proj', hidden, dim, initializer, { bias });
}
