import type { Value } from '../graph/graph.js';
import { layerNorm } from '../ops/layer-norm.js';
import { rmsNorm } from '../ops/rms-norm.js';
import type { ParameterScope } from './parameters.js';

/** RMSNorm with a weight of its own. */
export function rmsNormLayer(scope: ParameterScope, name: string, x: Value, eps: number): Value {
  return rmsNorm(x, scope.parameter(`${name}.weight`, [x.shape.at(-1) as number], { kind: 'ones' }), eps);
}

/** LayerNorm with weight and bias of its own. */
export function layerNormLayer(scope: ParameterScope, name: string, x: Value, eps: number): Value {
  const dim = x.shape.at(-1) as number;
  const weight = scope.parameter(`${name}.weight`, [dim], { kind: 'ones' });
  return layerNorm(x, weight, scope.parameter(`${name}.bias`, [dim], { kind: 'zeros' }), eps);
}
