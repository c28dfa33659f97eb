// What kernels must be like, judged from their machine code. Every gate is a sentence that names the kernel.
import { familyOf } from './budgets.mjs';
import { kernelsOn } from './compile.mjs';
import { occupancy } from './occupancy.mjs';
import { budgeted } from './toolkit.mjs';

/**
 * Kernels whose work is products of matrices of 16-bit numbers: these must be made of the tensor cores' instructions, fed
 * from shared memory by ldmatrix, which copies fill that go on beside them.
 */
export const multiplies = [
  /^flash_attention::(?:latent::)?(?:forward|backwardKeys|backwardQueries)</,
  /^grouped_matmul::(?:forward|gradient)</,
  /^matmul::multiply</,
];
const has16BitNumbers = /\b(?:Bf16|F16)\b/;
const tensorCore = ['HMMA', 'LDSM', 'LDGSTS'];
const localMemory = ['LDL', 'STL'];
const sharedMemory = ['LDS', 'STS', 'LDSM', 'LDGSTS'];

const fix = 'run `node scripts/check-cuda.mjs --write` and review the difference';

/** @param {string} code @returns {code is typeof budgeted[number]} */
const isBudgeted = (code) => budgeted.some((one) => one === code);

const has = (counts, opcode) => (counts?.[opcode] ?? 0) > 0;

/**
 * @param {readonly import('./compile.mjs').Compiled[]} compiled
 * @param {import('./budgets.mjs').Budgets} budgets
 * @param {import('./budgets.mjs').Launches} [launches] what the simulated GPU was seen to launch
 * @returns {string[]} complaints
 */
export function complaintsOf(compiled, budgets, launches = new Map()) {
  return compiled.flatMap(({ source, kernels }) => {
    const family = budgets[familyOf(source)] ?? {};
    const names = new Set(Object.values(kernels).flatMap((ofCode) => ofCode.map(({ name }) => name)));
    const gone = Object.keys(family).filter((name) => !names.has(name));
    return [
      ...Object.entries(kernels).flatMap(([code, ofCode]) =>
        ofCode.flatMap((kernel) => {
          const budget = family[kernel.name];
          const kept = isBudgeted(code) ? budgetComplaints(kernel, code, budget) : [];
          const said = isBudgeted(code) ? codeComplaints(kernel) : [];
          return [...said, ...kept].map((what) => `${kernel.name} on ${code} ${what}`);
        }),
      ),
      ...launchComplaints(family, launches),
      ...gone.map((name) => `${name} has a budget, but ${source} has no such kernel any more; ${fix}`),
    ];
  });
}

/**
 * What is worth knowing of kernels on GPUs without budgets, where spilled registers cost time and nothing else.
 *
 * @param {readonly import('./compile.mjs').Compiled[]} compiled @returns {string[]}
 */
export const notesOf = (compiled) =>
  compiled.flatMap(({ kernels }) =>
    Object.entries(kernels).flatMap(([code, ofCode]) =>
      ofCode
        .filter(({ spills, stack }) => !isBudgeted(code) && spills + stack > 0)
        .map(({ name, spills, stack }) => `${name} on ${code} spills ${spills} bytes, has a stack of ${stack} bytes`),
    ),
  );

/**
 * Kernels that no launch has shown: nothing has tested them.
 *
 * @param {readonly import('./compile.mjs').Compiled[]} compiled @param {import('./budgets.mjs').Launches} launches
 */
export const neverLaunched = (compiled, launches) =>
  compiled.flatMap((one) =>
    kernelsOn(one, budgeted[0])
      .filter(({ name }) => !launches.has(name))
      .map(({ name }) => `${name} is in no launch of the log`),
  );

/** @param {import('./compile.mjs').MachineKernel} kernel */
function codeComplaints({ name, spills, stack, staticShared, counts }) {
  const said = [];
  if (spills > 0) said.push(`spills registers: ${spills} bytes`);
  if (stack > 0) said.push(`has a stack of ${stack} bytes a thread`);
  if (staticShared > 0) said.push(`has ${staticShared} bytes of static shared memory; all of it is to be dynamic`);
  for (const opcode of localMemory)
    if (has(counts, opcode)) said.push(`uses local memory: ${counts?.[opcode]} instructions ${opcode}`);
  if (has16BitNumbers.test(name) && multiplies.some((pattern) => pattern.test(name)))
    for (const opcode of tensorCore)
      if (!has(counts, opcode)) said.push(`multiplies matrices, but has no instruction ${opcode}`);
  return said;
}

/**
 * @param {import('./compile.mjs').MachineKernel} kernel @param {typeof budgeted[number]} code
 * @param {import('./budgets.mjs').Budget | undefined} budget
 */
function budgetComplaints({ threads, registers, counts }, code, budget) {
  const on = budget?.on[code];
  if (!on) return [`has no budget in native/cuda/budgets.json; ${fix}`];
  const { sharedBytes } = budget;
  const said = [];
  if (registers > on.registers) said.push(`takes ${registers} registers a thread, ${on.registers} are its budget`);
  if (threads !== budget.threads)
    said.push(`has blocks of ${threads} threads, ${budget.threads} in its budget; ${fix}`);
  if (sharedBytes === 0 && sharedMemory.some((opcode) => has(counts, opcode)))
    said.push(
      `uses shared memory, of which its budget knows nothing: give the most it is launched with as sharedBytes`,
    );
  const { blocks, warps } = occupancy(code, { threads, registers, shared: sharedBytes });
  if (blocks === 0) said.push(`cannot be launched: ${threads} threads, ${registers} registers, ${sharedBytes} bytes`);
  else if (warps < on.warps) said.push(`leaves a multiprocessor ${warps} warps, ${on.warps} in its budget`);
  return said;
}

/** @param {Record<string, import('./budgets.mjs').Budget>} family @param {import('./budgets.mjs').Launches} launches */
export function launchComplaints(family, launches) {
  return Object.entries(family).flatMap(([name, budget]) => {
    const launched = launches.get(name);
    if (!launched) return [];
    const { sharedBytes, wavefronts } = launched;
    const said = [];
    if (sharedBytes > budget.sharedBytes)
      said.push(
        `${name} is launched with ${sharedBytes} bytes of shared memory, ${budget.sharedBytes} are its budget; ${fix}`,
      );
    if (wavefronts > 1) said.push(`${name} has conflicts of banks: ldmatrix takes ${wavefronts} wavefronts a matrix`);
    return said;
  });
}
