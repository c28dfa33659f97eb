// The table of kernels for people: docs/cuda.md and notes of issues.
import { familyOf } from './budgets.mjs';
import { kernelsOn } from './compile.mjs';
import { occupancy } from './occupancy.mjs';
import { budgeted } from './toolkit.mjs';

const ofAll = { sm_80: 64, sm_90: 64 };

/**
 * @param {readonly import('./compile.mjs').Compiled[]} compiled @param {import('./budgets.mjs').Budgets} budgets
 * @param {Map<string, string>} [shares] predicted shares of the roofline, by family
 * @returns {string} Markdown
 */
export function kernelTable(compiled, budgets, shares = new Map()) {
  const rows = compiled.flatMap((one) =>
    kernelsOn(one, budgeted[0]).map(({ name, threads }) => {
      const on = budgeted.map((code) => kernelsOn(one, code).find((kernel) => kernel.name === name));
      const sharedBytes = budgets[familyOf(one.source)]?.[name]?.sharedBytes ?? 0;
      return [
        `\`${name}\``,
        `${threads}`,
        on.map((kernel) => kernel?.registers ?? '–').join(' / '),
        sharedBytes.toLocaleString('en-US'),
        budgeted
          .map((code, i) => {
            const { warps } = occupancy(code, { threads, registers: on[i]?.registers ?? 0, shared: sharedBytes });
            return `${Math.round((100 * warps) / ofAll[code])} %`;
          })
          .join(' / '),
        on
          .map((kernel) => Math.max(0, ...(kernel?.hmmaOfLoops ?? [])))
          .join(' / ')
          .replace(/^0 \/ 0$/, '–'),
        shares.get(familyOf(one.source)) ?? '–',
      ];
    }),
  );
  const head = [
    ...['kernel', 'threads', 'registers (sm_80 / sm_90)', 'shared memory, bytes'],
    ...['occupancy (sm_80 / sm_90)', 'HMMA a loop (sm_80 / sm_90)', 'predicted share of roofline'],
  ];
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
