// Statistics of a tensor as programs write them.
import { statisticNames } from '../ops/statistics.js';

/** The ends of the range are of the finite numbers, ∞ and −∞ where there are none. */
export type Statistics = Record<(typeof statisticNames)[number], number>;

/** Statistics of the output of a layer, or of a part of one. */
export interface Activation extends Statistics {
  /** Module path. */
  where: string;
}

/** Reads a row of a table of statistics. */
export function statisticsOf(table: Float32Array, row = 0): Statistics {
  const numbers = statisticNames.map((name, i) => [name, table[row * statisticNames.length + i]]);
  return Object.fromEntries(numbers) as Statistics;
}
