import type { Shape } from '../../core/shape.js';
import type { Graph, Value } from '../../graph/graph.js';
import type { DistConfig } from '../dist-config.js';
import type { NamedValue } from './residuals.js';

/** A way to sum gradients over the ranks with fewer bytes. */
export interface Method {
  /** Whether a gradient becomes small enough by it. */
  suits(shape: Shape, dist: DistConfig): boolean;
  /**
   * The sum of each gradient over the ranks, the same bits on all of them. Each stage is traced for all gradients before the
   * next one is, so that collectives of one stage can be one call.
   */
  sums(graph: Graph, gradients: readonly NamedValue[], dist: DistConfig): Value[];
}
