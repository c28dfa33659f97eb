// Budgets of kernels: native/cuda/budgets.json says of every kernel how many registers it may take, and what follows for how
// full a multiprocessor is. People review changes of it; the gates hold kernels to it.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { kernelsOn } from './compile.mjs';
import { occupancy } from './occupancy.mjs';
import { budgeted, root } from './toolkit.mjs';

export const budgetsFile = path.join(root, 'native/cuda/budgets.json');

/**
 * @typedef {object} Budget
 * @property {number} threads of a block
 * @property {number} sharedBytes the most that it is launched with, all of it dynamic
 * @property {Record<string, { registers: number, blocks: number, warps: number }>} on by GPU: registers a thread; blocks and
 *   warps that a multiprocessor holds
 */

/** @typedef {Record<string, Record<string, Budget>>} Budgets by source, by kernel */
/** @typedef {ReadonlyMap<string, import('./launches.mjs').Launched>} Launches by kernel */

/** @returns {Budgets} */
export const readBudgets = (file = budgetsFile) => (existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {});

/** The name that a source has among the budgets. @param {string} source */
export const familyOf = (source) => path.basename(source, '.cu');

/** A kernel a line, so that a change of one is a line of a diff. @param {Budgets} budgets */
export function budgetsText(budgets) {
  const families = Object.entries(budgets).map(([family, kernels]) => {
    const lines = Object.entries(kernels).map(([name, budget]) => `    ${JSON.stringify(name)}: ${spaced(budget)}`);
    return `  ${JSON.stringify(family)}: {\n${lines.join(',\n')}\n  }`;
  });
  return `{\n${families.join(',\n')}\n}\n`;
}

const spaced = (value) => {
  if (typeof value !== 'object') return JSON.stringify(value);
  const fields = Object.entries(value).map(([name, field]) => `${JSON.stringify(name)}: ${spaced(field)}`);
  return `{ ${fields.join(', ')} }`;
};

const byKey = (a, b) => (a[0] < b[0] ? -1 : 1);
const sorted = (object) => Object.fromEntries(Object.entries(object).sort(byKey));

/**
 * Budgets that kernels just keep.
 *
 * @param {readonly import('./compile.mjs').Compiled[]} compiled
 * @param {Budgets} earlier says of shared memory what no launch has shown; stays for sources that are not compiled
 * @param {Launches} launches
 * @returns {Budgets}
 */
export function budgetsOf(compiled, earlier, launches) {
  const families = compiled.map((one) => {
    const family = familyOf(one.source);
    const budgets = kernelsOn(one, budgeted[0]).map(({ name, threads }) => {
      const sharedBytes = Math.max(earlier[family]?.[name]?.sharedBytes ?? 0, launches.get(name)?.sharedBytes ?? 0);
      const on = budgeted.map((code) => {
        const registers = kernelsOn(one, code).find((other) => other.name === name)?.registers ?? 0;
        const { blocks, warps } = occupancy(code, { threads, registers, shared: sharedBytes });
        return [code, { registers, blocks, warps }];
      });
      return [name, { threads, sharedBytes, on: Object.fromEntries(on) }];
    });
    return [family, sorted(Object.fromEntries(budgets))];
  });
  return sorted({ ...earlier, ...Object.fromEntries(families) });
}
