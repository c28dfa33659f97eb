import type { Value } from '../graph/graph.js';
import { matmul } from '../ops/matmul.js';
import { swiglu } from '../ops/swiglu.js';
import { linear } from './linear.js';
import type { Initializer, ParameterScope } from './parameters.js';

/** Gated MLP: down(silu(gate(x)) · up(x)). Gate and up are one product in memory, two tensors on disk. */
export function gatedMlp(scope: ParameterScope, x: Value, intermediate: number, initializer: Initializer): Value {
  const dim = x.shape.at(-1) as number;
  const shape = [intermediate, dim];
  const gateUp = scope.parameter('gate_up_proj.weight', [2 * intermediate, dim], initializer, {
    parts: [
      { name: 'gate_proj.weight', shape },
      { name: 'up_proj.weight', shape },
    ],
  });
  return linear(scope, 'down_proj', swiglu(matmul(x, gateUp, { transposeB: true })), dim, initializer);
}
