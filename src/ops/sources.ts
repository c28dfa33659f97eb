// Values without inputs: constants of various makes.
import type { DType } from '../core/dtype.js';
import type { Shape } from '../core/shape.js';
import type { Graph, Value } from '../graph/graph.js';
import { broadcastTo } from './shape.js';

/** One fp32 number of shape []. */
export function scalar(graph: Graph, value: number): Value {
  return graph.constant(Float32Array.of(value), []);
}

/** `shape` filled with one number. */
export function fill(graph: Graph, shape: Shape, value: number, dtype: DType = 'fp32'): Value {
  return broadcastTo(scalar(graph, value), shape, dtype);
}

/** Zeros of x's shape and dtype. */
export function zerosLike(x: Value): Value {
  return fill(x.node.graph, x.shape, 0, x.dtype);
}

/** 0, 1, …, n − 1 as int32 [n]. */
export function iota(graph: Graph, n: number): Value {
  return graph.constant(
    Int32Array.from({ length: n }, (_, i) => i),
    [n],
  );
}
