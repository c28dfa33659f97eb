// Runs both programs in turns on one model or one op.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { randomUint32 } from '../../src/data/shuffle.js';
import { modelFromConfig } from '../../src/models/families.js';
import { countModel } from '../../src/models/inspect.js';
import { type Model, parametersOf } from '../../src/models/model.js';
import { compile } from '../../src/runtime/compile.js';
import { openDevice } from '../../src/runtime/device.js';
import { Session } from '../../src/session/session.js';
import { traceInitialization } from '../../src/train/initialization.js';
import { loadOfMachine, type Peaks } from '../support/machine.js';
import { nameOf, type OpEntry } from './op-cases.js';
import {
  type ModelResult,
  type OpResult,
  type OpRun,
  type StepRun,
  summarize,
  summarizeOp,
  type Variant,
} from './results.js';

export interface ComparedModel {
  name: string;
  /** Its config.json. */
  file: string;
  batch: number;
  seq: number;
}

export interface CompareOptions {
  python: string;
  threads: number;
  rounds: number;
  steps: number;
  warmup: number;
  compile: boolean;
  /** The best that this machine has. */
  instructionSet: string;
  peaks: Peaks;
  /** What could not be measured is added. */
  leftOut: string[];
  say: (line: string) => void;
}

interface Contender extends Variant {
  command: string[];
  env?: Record<string, string>;
  /** Without it, there is a comparison all the same. */
  isOptional?: boolean;
}

const pathOf = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));

/** Training steps of one model, both programs from the same weights on the same tokens. */
export async function compareModel(compared: ComparedModel, options: CompareOptions): Promise<ModelResult> {
  const { name, file, batch, seq } = compared;
  const { rounds, steps, warmup, threads, say } = options;
  const model = modelFromConfig(JSON.parse(await readFile(file, 'utf8')), file);
  const { parameters, flopsPerToken: uncut } = countModel(model, seq).model;
  // The causal mask leaves (T + 1) / 2 of T keys to a query, on average.
  const flopsPerToken = uncut - 3 * model.layers * model.attentionWidth * (seq - 1);
  const load = loadOfMachine();
  const dir = await mkdtemp(join(tmpdir(), 'hadal-peers-'));
  try {
    say(`${name}: writing weights and tokens`);
    await writeWeights(model, join(dir, 'model'), threads);
    await writeFile(join(dir, 'tokens.bin'), tokensFor(model.vocabSize, (warmup + steps) * batch * seq));
    const sizes = { batch, seq, steps, warmup, threads, model: join(dir, 'model'), tokens: join(dir, 'tokens.bin') };
    const flags = Object.entries(sizes).flatMap(([key, value]) => [`--${key}`, `${value}`]);
    const runs = await inTurns<StepRun>(stepContenders(flags, options), rounds, options, name);
    const variants = [...runs].map(([variant, found]) =>
      summarize(variant, found, flopsPerToken, options.peaks.product.bf16),
    );
    return { name, parameters, batch, seq, flopsPerToken, load, variants };
  } finally {
    await rm(dir, { recursive: true });
  }
}

function stepContenders(flags: readonly string[], { python, compile, instructionSet }: CompareOptions): Contender[] {
  const hadal = [process.execPath, pathOf('../../dist/cli/main.js'), 'bench', 'step', ...flags, '--json', '--dtype'];
  const pytorch = [python, pathOf('pytorch_step.py'), ...flags, '--dtype'];
  const ours = (['fp32', 'bf16'] as const).map(
    (dtype): Contender => ({ name: `hadal ${dtype}`, program: 'hadal', dtype, command: [...hadal, dtype] }),
  );
  const heldBack: Contender = {
    ...{ name: 'hadal fp32, AVX2', program: 'hadal', dtype: 'fp32', isHeldBack: true },
    // oneDNN looks at the machine, not at HADAL_ISA.
    ...{
      command: [...hadal, 'fp32'],
      env: { HADAL_ISA: 'avx2', ONEDNN_MAX_CPU_ISA: 'AVX2', DNNL_MAX_CPU_ISA: 'AVX2' },
    },
  };
  const theirs = (['fp32', 'bf16'] as const).flatMap((dtype): Contender[] => [
    { name: `PyTorch ${dtype}`, program: 'PyTorch', dtype, command: [...pytorch, dtype] },
    ...(compile
      ? [
          {
            ...({ name: `PyTorch ${dtype}, compiled`, program: 'PyTorch', dtype, isOptional: true } as const),
            command: [...pytorch, dtype, '--compile'],
          },
        ]
      : []),
  ]);
  const all = instructionSet.startsWith('avx512') ? [...ours, heldBack] : ours;
  return [...all, ...theirs];
}

/** One op, forward and backward. */
export async function compareOp(entry: OpEntry, options: CompareOptions): Promise<OpResult> {
  const { python, threads, compile, rounds } = options;
  const name = nameOf(entry);
  const flags = ['--op', JSON.stringify(entry), '--threads', `${threads}`];
  const hooks = ['--import', pathOf('../support/typescript.mjs')];
  const { dtype } = entry;
  const hadal: Contender = {
    ...{ name: 'hadal', program: 'hadal', dtype },
    command: [process.execPath, ...hooks, pathOf('hadal-op.ts'), ...flags],
  };
  const pytorch: Contender = {
    ...{ name: 'PyTorch', program: 'PyTorch', dtype },
    command: [python, pathOf('pytorch_ops.py'), ...flags, ...(compile ? ['--compile'] : [])],
  };
  const runs = await inTurns<OpRun>([hadal, pytorch], rounds, options, name);
  const [ours = [], theirs = []] = runs.values();
  return summarizeOp(name, ours, theirs);
}

/** A B A B: what disturbs the machine for a while disturbs everyone alike. */
async function inTurns<Run>(
  contenders: readonly Contender[],
  rounds: number,
  { leftOut, say }: CompareOptions,
  what: string,
): Promise<Map<Variant, Run[]>> {
  const runs = new Map<Contender, Run[]>(contenders.map((contender) => [contender, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const [contender, found] of runs) {
      say(`${what}: round ${round} of ${rounds}, ${contender.name}`);
      try {
        found.push(await runProcess<Run>(contender));
      } catch (error) {
        if (!contender.isOptional) throw error;
        leftOut.push(`${what}, ${contender.name}: ${(error as Error).message}`);
        runs.delete(contender);
      }
    }
  }
  const plain = ([{ command, env, isOptional, ...variant }, found]: [Contender, Run[]]): [Variant, Run[]] => [
    variant,
    found,
  ];
  return new Map([...runs].map(plain));
}

/** The last line of what a process prints, as JSON. */
export function runProcess<Run>({ command, env }: Pick<Contender, 'command' | 'env'>): Promise<Run> {
  const [file = '', ...args] = command;
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    const [output, errors]: [string[], string[]] = [[], []];
    child.stdout.setEncoding('utf8').on('data', (text: string) => output.push(text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => errors.push(text));
    child.on('error', reject);
    child.on('close', (status) => {
      const lastLine = (texts: readonly string[]) => texts.join('').trim().split('\n').at(-1) as string;
      if (status === 0) resolve(JSON.parse(lastLine(output)) as Run);
      else reject(new Error(`${args[0]} ended with status ${status}: ${lastLine(errors)}`));
    });
  });
}

async function writeWeights(model: Model, dir: string, threads: number): Promise<void> {
  using device = openDevice('cpu', { threads });
  const tensors = new Map(
    [...parametersOf(model)].map(([name, { shape, dtype }]) => [name, device.allocate(shape, dtype)]),
  );
  const program = device.load(compile(traceInitialization(model), threads));
  await device.run([{ program, slots: Object.fromEntries(tensors), inputs: { key: Int32Array.of(1, 0) } }]);
  await new Session({ model, tensors, device, tokenizer: null }).save(dir);
  for (const tensor of tensors.values()) tensor.dispose();
}

/** Small ids more often than large ones, so that there is something to learn and losses fall. */
export function tokensFor(vocabSize: number, count: number): Int32Array {
  const next = randomUint32(1);
  return Int32Array.from({ length: count }, () => Math.floor(vocabSize * (next() / 2 ** 32) ** 2));
}
