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

/** Statistics of parts that lie in several processes, of them all. */
export const statisticsOfAll = (parts: readonly Statistics[]): Statistics => {
  const sum = (name: keyof Statistics) => parts.reduce((total, part) => total + part[name], 0);
  return {
    smallest: Math.min(...parts.map(({ smallest }) => smallest)),
    greatest: Math.max(...parts.map(({ greatest }) => greatest)),
    ...{ zeros: sum('zeros'), notFinite: sum('notFinite'), count: sum('count') },
  };
};
