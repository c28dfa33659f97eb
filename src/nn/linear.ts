// Linear layers. Weights are [out, in] as in PyTorch, or [in, out] as in GPT-2's Conv1D.
import type { Value } from '../graph/graph.js';
import { add } from '../ops/elementwise.js';
import { matmul } from '../ops/matmul.js';
import type { Initializer, ParameterScope } from './parameters.js';

/** y = x · weightᵀ, weight [out, in]; with `bias`, + bias. */
export function linear(
  scope: ParameterScope,
  name: string,
  x: Value,
  out: number,
  initializer: Initializer,
  { bias = false } = {},
): Value {
  const weight = scope.parameter(`${name}.weight`, [out, x.shape.at(-1) as number], initializer);
  const y = matmul(x, weight, { transposeB: true });
  return bias ? add(y, scope.parameter(`${name}.bias`, [out], { kind: 'zeros' })) : y;
}

/** y = x · weight + bias, weight [in, out]. */
export function conv1d(scope: ParameterScope, name: string, x: Value, out: number, initializer: Initializer): Value {
  const weight = scope.parameter(`${name}.weight`, [x.shape.at(-1) as number, out], initializer);
  const bias = scope.parameter(`${name}.bias`, [out], { kind: 'zeros' });
  return add(matmul(x, weight), bias);
}
