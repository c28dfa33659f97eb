// The table of kernels for people: docs/cuda.md and notes of issues.
import { spawnSync } from 'node:child_process';
import { familyOf } from './budgets.mjs';
import { kernelsOn } from './compile.mjs';
import { occupancy } from './occupancy.mjs';
import { budgeted, root } from './toolkit.mjs';

const ofAll = { sm_80: 64, sm_90: 64 };

/**
 * @param {readonly import('./compile.mjs').Compiled[]} compiled @param {import('./budgets.mjs').Budgets} budgets
 * @param {ReadonlyMap<string, string>} [shares] predicted shares of the roofline, by source
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
    ...['occupancy (sm_80 / sm_90)', 'HMMA a loop (sm_80 / sm_90)', 'predicted share of roofline (A100 / H100)'],
  ];
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...alikeOnce(rows).map(line)].join('\n');
}

/** Kernels for bf16 and fp16 that differ in nothing else are one row. @param {readonly string[][]} rows */
function alikeOnce(rows) {
  const found = new Map();
  for (const [name = '', ...cells] of rows) {
    const both = name.replace(/\b(?:Bf16|F16)\b/g, 'Bf16/F16');
    const key = [both, ...cells].join('|');
    found.set(key, found.has(key) ? [both, ...cells] : [name, ...cells]);
  }
  return [...found.values()];
}

/** The models whose steps are predicted for the table. */
const models = [
  ['deepseek-v2-lite', '--batch', '8'],
  ['gpt2-124m', '--batch', '64'],
];

/**
 * Predicted shares of the roofline on the GPUs with budgets, by source: of all instructions of a step whose kernel has the
 * source's name in its own. Needs the compiled command line (npm run build:ts).
 *
 * @param {readonly string[]} sources by the name among the budgets @returns {ReadonlyMap<string, string>}
 */
export function predictedShares(sources) {
  const byLength = [...sources].sort((a, b) => b.length - a.length);
  const [onA100, onH100] = [sharesOn('a100', byLength), sharesOn('h100', byLength)];
  return new Map([...onA100].map(([source, share]) => [source, `${share} / ${onH100.get(source) ?? '–'}`]));
}

function sharesOn(gpu, sources) {
  const sums = new Map();
  for (const model of models) {
    const args = ['dist/cli/main.js', 'inspect', ...model, '--device', gpu, '--no-plan', '--json'];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
    if (status !== 0) throw new Error(`hadal inspect failed: ${stderr}`);
    for (const { kernel, seconds, shareOfRoofline } of JSON.parse(stdout).kernels) {
      const source = sources.find((name) => kernel.includes(name));
      const { least = 0, all = 0 } = sums.get(source) ?? {};
      sums.set(source, { least: least + seconds * shareOfRoofline, all: all + seconds });
    }
  }
  return new Map([...sums].map(([source, { least, all }]) => [source, `${Math.round((100 * least) / all)} %`]));
}
