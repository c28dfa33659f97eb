// Golden loss curves: a refactoring keeps them, bit for bit on the machine they were recorded on. A change of mathematics
// records them anew with `HADAL_RECORD_LOSSES=1 npx vitest run test/losses`, and its commit says why.
import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';

interface Recording {
  /** What the bits depend on. */
  machine: { cpu: string; isa: string; onednn: string; threads: number };
  curves: Record<string, number[]>;
}

const program = fileURLToPath(new URL('curves.mjs', import.meta.url));
const file = fileURLToPath(new URL('losses.json', import.meta.url));

const sets = ['portable', 'avx2', 'avx512', 'avx512bf16'];
let usual: Recording | undefined;

/** What is trained with these variables; where the set of instructions is this machine's anyway, or beyond it, the usual. */
async function trained(variables: Record<string, string>): Promise<Recording> {
  usual ??= await train({});
  const { HADAL_ISA = '', ...others } = variables;
  const isUsual = HADAL_ISA === '' || sets.indexOf(HADAL_ISA) >= sets.indexOf(usual.machine.isa);
  return isUsual && Object.keys(others).length === 0 ? usual : await train(variables);
}

async function train(variables: Record<string, string>): Promise<Recording> {
  const { HADAL_ISA, HADAL_NO_ONEDNN, ...env } = process.env;
  const { stdout } = await promisify(execFile)(process.execPath, [program], { env: { ...env, ...variables } });
  return JSON.parse(stdout) as Recording;
}

const names = ['deepseek_v3', 'deepseek_v2', 'gpt2', 'qwen2'];
const relativeTolerance = 1e-4;

let golden: Recording;
beforeAll(async () => {
  if (process.env.HADAL_RECORD_LOSSES) writeFileSync(file, `${JSON.stringify(await train({}), null, 1)}\n`);
  golden = JSON.parse(readFileSync(file, 'utf8')) as Recording;
});

describe.each([
  { variables: {} },
  { variables: { HADAL_ISA: 'avx512' } },
  { variables: { HADAL_ISA: 'avx2' } },
  { variables: { HADAL_ISA: 'portable' } },
  { variables: { HADAL_ISA: 'portable', HADAL_NO_ONEDNN: '1' } },
])('losses with $variables', ({ variables }) => {
  let found: Recording;
  beforeAll(async () => {
    found = await trained(variables);
  });

  describe.each(names)('of %s', (name) => {
    it('are those recorded', (context) => {
      const { HADAL_ISA = found.machine.isa } = variables as { HADAL_ISA?: string };
      if (found.machine.isa !== HADAL_ISA) return context.skip(`this machine has no ${HADAL_ISA}`);
      const [curve, expected] = [found.curves[name] as number[], golden.curves[name] as number[]];
      expect(expected).toHaveLength(20);
      expect(expected.at(-1)).toBeLessThan((expected[0] as number) - 0.5);
      for (const [i, loss] of expected.entries()) {
        const error = Math.abs((curve[i] as number) - loss) / loss;
        expect(error, `${name}, step ${i}: ${curve[i]} for ${loss}`).toBeLessThan(relativeTolerance);
      }
    });

    it('have the bits recorded', (context) => {
      const [here, there] = [found, golden].map(({ machine }) => Object.values(machine).join(', '));
      if (here !== there) return context.skip(`recorded on ${there}; this is ${here}`);
      expect(found.curves[name]).toEqual(golden.curves[name]);
    });
  });
});
