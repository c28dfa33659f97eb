// Static gates of the CUDA sources: they compile for every GPU without a warning, and their kernels keep their budgets
// (native/cuda/budgets.json), do not spill, use no local memory, and are made of tensor-core instructions where they multiply
// matrices. Nothing runs: that takes a GPU. Prints `skipped: …` where nvcc is not installed.
// --quick compiles for the GPUs with budgets alone; --write makes the budgets anew; --table prints the kernels as a table;
// --launches <file> looks at a log of the simulated GPU, too (HADAL_SIM_LOG); names of sources (`rms-norm`) restrict it to these.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { budgetsFile, budgetsOf, budgetsText, familyOf, readBudgets } from './cuda/budgets.mjs';
import { compileAll, cudaSources, kernelsOn } from './cuda/compile.mjs';
import { complaintsOf, neverLaunched, notesOf } from './cuda/gates.mjs';
import { readLaunches } from './cuda/launches.mjs';
import { opcodes, probedOpcodes } from './cuda/opcodes.mjs';
import { kernelTable, predictedShares } from './cuda/table.mjs';
import { architectures, budgeted, findToolkit, root } from './cuda/toolkit.mjs';

/** The numbers of instructions are this assembler's: asked once of each. */
function checkOpcodes(toolkit) {
  const state = createHash('sha256')
    .update(JSON.stringify([toolkit.version, opcodes, budgeted]))
    .digest('hex');
  const stamp = path.join(root, 'build/cuda/opcodes.stamp');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === state) return [];
  const wrong = budgeted.flatMap((code) =>
    Object.entries(probedOpcodes(toolkit.ptxas, code))
      .filter(([name, found]) => !found.includes(opcodes[name]))
      .map(([name, found]) => {
        const probed = found.map((number) => `0x${number.toString(16)}`).join(', ');
        return `${name} on ${code} is expected to be 0x${opcodes[name].toString(16)}; the assembler writes one of ${probed}`;
      }),
  );
  if (wrong.length === 0) {
    mkdirSync(path.dirname(stamp), { recursive: true });
    writeFileSync(stamp, state);
  }
  return wrong;
}

const has = (option) => process.argv.includes(option);
const optionOf = (name) => (has(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);

const toolkit = findToolkit();
if (toolkit === null) console.log('skipped: nvcc is not installed');
else {
  const wanted = process.argv.slice(2).filter((word, i, words) => !/^--/.test(word) && words[i - 1] !== '--launches');
  const sources = cudaSources().filter((source) => wanted.length === 0 || wanted.includes(familyOf(source)));
  const { compiled, failures } = await compileAll(toolkit, sources, has('--quick') ? { codes: budgeted } : {});
  const launches = readLaunches(optionOf('--launches'));
  if (has('--write')) writeFileSync(budgetsFile, budgetsText(budgetsOf(compiled, readBudgets(), launches)));
  const budgets = readBudgets();
  const complaints = [...failures, ...checkOpcodes(toolkit), ...complaintsOf(compiled, budgets, launches)];
  const notes = [...notesOf(compiled), ...(launches.size > 0 ? neverLaunched(compiled, launches) : [])];
  for (const note of notes) console.log(`note: ${note}`);
  for (const complaint of complaints) console.error(complaint);
  if (has('--table')) console.log(kernelTable(compiled, budgets, predictedShares(sources.map(familyOf))));
  const kernels = compiled.reduce((count, one) => count + kernelsOn(one, budgeted[0]).length, 0);
  console.log(
    `${compiled.length} of ${sources.length} CUDA sources compile for ${(has('--quick') ? budgeted : architectures).join(', ')}; ` +
      `${kernels} kernels, ${complaints.length} complaints`,
  );
  if (complaints.length > 0) process.exitCode = 1;
}
