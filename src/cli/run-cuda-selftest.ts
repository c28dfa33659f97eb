// `hadal cuda-selftest`: every part in a process of its own, so that one that fails leaves the others be.
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadAddon } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';
import { formatBytes, formatInteger } from '../core/format.js';
import { version } from '../core/version.js';
import { backendOf, openDevice } from '../runtime/device.js';
import { type Benchmark, benchmark } from '../selftest/benchmarks.js';
import { type SelfTestResult, selfTest, suspectsOf } from '../selftest/selftest.js';
import type { CudaSelftestFlags } from './cuda-selftest.js';
import { printJson, printLine } from './output.js';
import { presets } from './presets/presets.js';

/** One part's outcome; details differ from part to part. */
interface Part {
  name: string;
  passed: boolean;
  seconds: number;
  /** A line for people, or why it failed. */
  summary: string;
  details: unknown;
}

const withoutLibrary = { HADAL_CUBLASLT: 'none' };

/** What is written down, again after each part. */
interface Report {
  hadal: string;
  date: string;
  device: string;
  /** The simulated device's times say nothing about a GPU. */
  simulated: boolean;
  card: unknown;
  libraries: string[];
  parts: Part[];
}

const main = fileURLToPath(new URL('./main.js', import.meta.url));
/** That a process may say nothing. */
const limitMs = 300_000;
/** The same of a part, whose cases take seconds: a kernel that never ends is to cost no more. */
const caseLimitMs = 90_000;
/** Processes of a part, of which each but the last ended amidst a case. */
const mostProcesses = 20;
const steps = 20;
/** Differences of losses over twenty steps, relative: other orders of sums, and what routers make of them. */
const allowedDifference = { fp32: 1e-5, bf16: 1e-2, fp16: 1e-2 } as const;

/** Tests and measures a device. Exit status 1 where a part failed. */
export async function runCudaSelftest(flags: CudaSelftestFlags): Promise<void> {
  if (flags.part === 'kernels') return testKernels(flags);
  if (flags.part === 'benchmarks') return measureKernels(flags);
  const { backend, index } = backendOf(flags.device);
  const { devices, libraries, why } = loadAddon().backend(backend);
  const card = devices[index];
  if (backend === 'cpu' || !card) {
    throw new HadalError(
      'HADAL_ERR_DEVICE',
      `[selftest] expected a GPU, or cuda-sim, got '${flags.device}': ${why || 'there is none'}`,
    );
  }
  const simulated = backend === 'cuda-sim';
  const hasLibrary = libraries.some((line) => line.startsWith('cuBLASLt '));
  const date = new Date().toISOString();
  const report: Report = { hadal: version, date, device: flags.device, simulated, card, libraries, parts: [] };
  const folder = await mkdtemp(join(tmpdir(), 'hadal-selftest-'));
  try {
    for (const [name, work] of Object.entries(partsOf(flags.device, simulated, card.memoryBytes, hasLibrary, folder))) {
      const part = await attempt(name, work);
      report.parts.push(part);
      if (flags.out !== undefined) await write(flags.out, report);
      process.stderr.write(
        `${part.passed ? 'passed' : 'FAILED'} ${part.seconds.toFixed(1).padStart(6)} s  ${name}: ${part.summary}\n`,
      );
    }
  } finally {
    await rm(folder, { recursive: true });
  }
  if (report.parts.some(({ passed }) => !passed)) process.exitCode = 1;
  if (flags.json) printJson(report);
  else printLine(asMarkdown(report));
}

/** The end of a summary. */
const told = (what: string, names: readonly string[]) => (names.length > 0 ? `; ${what}: ${names.join(', ')}` : '');

type Work = () => Promise<{ passed: boolean; summary: string; details: unknown }>;

function partsOf(
  device: string,
  simulated: boolean,
  memoryBytes: number,
  hasLibrary: boolean,
  folder: string,
): Record<string, Work> {
  const losses = new Map<string, number[]>();
  let bestProduct = 0; // TFLOP/s, once it was measured
  const env: Record<string, string> = {}; // of the device's runs
  const training = (dtype: keyof typeof allowedDifference) => async () => {
    const [expected, got] = [await lossesOf('cpu', dtype, folder), await lossesOf(device, dtype, folder, env)];
    losses.set(dtype, got);
    const worst = Math.max(...expected.map((loss, i) => Math.abs(loss - (got[i] ?? Number.NaN)) / loss));
    const passed = got.length === steps && worst <= allowedDifference[dtype];
    const summary = `losses of ${steps} steps differ from the CPU's by at most ${worst.toExponential(1)} (allowed ${allowedDifference[dtype]})`;
    return { passed, summary, details: { worst, expected, got } };
  };
  const kernels =
    (env: Record<string, string> = {}) =>
    async () => {
      // One after the other, so that errors are told with the op.
      const { rows, failed } = await rowsOf<SelfTestResult>('kernels', device, { HADAL_CUDA_SYNC: '1', ...env });
      const ended = failed.map(({ name, why }) => ({ name, failure: why }));
      const suspects = suspectsOf(rows);
      const results = [...rows, ...ended];
      const failures = results.filter(({ failure }) => failure !== null);
      const summary = `${results.length - failures.length} of ${results.length} computations agree with the CPU's${told('suspects', suspects)}${told(
        'no result',
        ended.map(({ name }) => name),
      )}`;
      return { passed: failures.length === 0, summary, details: { failures, suspects, computations: results.length } };
    };
  const benchmarks =
    (env: Record<string, string> = {}) =>
    async () => {
      const { rows, failed } = await rowsOf<Benchmark>('benchmarks', device, env);
      const { tflops, summary } = peaksOf(rows);
      bestProduct = Math.max(bestProduct, tflops);
      const refusals = failed.map(({ name, why }) => `; no time of ${name}: ${why}`);
      return { passed: rows.length > 0 && failed.length === 0, summary: summary + refusals.join(''), details: rows };
    };
  return {
    kernels: kernels(),
    // What products are made by where there is no cuBLASLt, and under a predicate.
    ...(hasLibrary && { 'kernels without cuBLASLt': kernels(withoutLibrary) }),
    'training in fp32': training('fp32'),
    'CUDA graphs': async () => {
      const eager = await lossesOf(device, 'fp32', folder, { HADAL_CUDA_GRAPHS: '0' });
      const replayed = losses.get('fp32') ?? [];
      const passed = replayed.length === steps && eager.every((loss, i) => loss === replayed[i]);
      if (!passed) env.HADAL_CUDA_GRAPHS = '0'; // so that the parts that follow have something to tell
      const summary = passed
        ? 'replayed steps give the bits of steps that were launched'
        : 'replayed steps fail or differ; the parts that follow launch each kernel';
      return { passed, summary, details: { eager, replayed } };
    },
    'training in bf16': training('bf16'),
    'training in fp16, with loss scaling': training('fp16'),
    microbenchmarks: benchmarks(),
    ...(hasLibrary && { 'microbenchmarks without cuBLASLt': benchmarks(withoutLibrary) }),
    ...Object.fromEntries(
      (simulated ? (['test'] as const) : (['gpt2-124m', 'test'] as const)).map((preset) => [
        `tokens per second, ${preset}`,
        () => measureStep(device, preset, { simulated, memoryBytes, folder, bestProduct, env }),
      ]),
    ),
  };
}

async function attempt(name: string, work: Work): Promise<Part> {
  const begin = performance.now();
  const outcome = await work().catch((error: Error) => ({ passed: false, summary: error.message, details: null }));
  return { name, ...outcome, seconds: (performance.now() - begin) / 1000 };
}

/** Runs a command of hadal and gives what it printed as JSON. */
async function inProcess(args: readonly string[], env: Record<string, string> = {}): Promise<unknown> {
  const { lines, why } = await linesOf(args, env, limitMs);
  if (why !== null) throw new Error(why);
  return JSON.parse(lines.at(-1) as string);
}

/** Runs a command of hadal that is ended when it prints nothing for so long; why it failed, or null. */
async function linesOf(args: readonly string[], env: Record<string, string>, silenceMs: number) {
  const child = spawn(process.execPath, [main, ...args, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // What a card got wrong is to be seen here, not replaced as in the runs of users.
    env: { ...process.env, HADAL_CUDA_SELFTEST: '0', ...env },
  });
  const end = () => child.kill('SIGKILL');
  let timer = setTimeout(end, silenceMs);
  let [out, err] = ['', ''];
  child.stdout.on('data', (text) => {
    out += text;
    clearTimeout(timer);
    timer = setTimeout(end, silenceMs);
  });
  child.stderr.on('data', (text) => (err += text));
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...ended) => resolve(ended));
  }).finally(() => clearTimeout(timer));
  const lines = out.trim().split('\n');
  const told = err.trim().slice(-600) || lines.at(-1);
  const why = code === 0 ? null : `hadal ${args[0]} ended with ${signal ?? `status ${code}`}: ${told}`;
  return { lines, why };
}

/** A line of a part: a case begins, or gave something, or there are no more of them. */
type Line = { at: number; name: string } | { row: unknown } | { isDone: true };

/**
 * Runs a part whose process may end amidst a case: a GPU that was given a bad address is of no use to a process any more, and a
 * kernel may never end. Another one goes on with the next case.
 */
async function rowsOf<Row>(part: string, device: string, env: Record<string, string> = {}) {
  const [rows, failed]: [Row[], { name: string; why: string }[]] = [[], []];
  for (let from = 0, count = 0; ; count++) {
    if (count === mostProcesses) {
      failed.push({ name: `all from the ${from}th on`, why: `${mostProcesses} processes have failed` });
      break;
    }
    const args = ['cuda-selftest', '--part', part, '--device', device, '--from', `${from}`];
    const { lines, why } = await linesOf(args, env, caseLimitMs);
    let begun: { at: number; name: string } | null = null;
    let isDone = false;
    for (const text of lines) {
      const line = asLine(text);
      if (line === null) continue;
      if ('at' in line) begun = line;
      if ('row' in line) rows.push(line.row as Row);
      isDone ||= 'isDone' in line;
    }
    if (isDone) break;
    if (begun === null) throw new Error(why ?? `hadal ${args[0]} printed nothing`);
    if (why !== null) failed.push({ name: begun.name, why });
    from = begun.at + 1;
  }
  return { rows, failed };
}

/** Null for what a process that was ended had no time to finish. */
function asLine(text: string): Line | null {
  try {
    return JSON.parse(text) as Line;
  } catch {
    return null;
  }
}

async function lossesOf(
  device: string,
  dtype: string,
  folder: string,
  env: Record<string, string> = {},
): Promise<number[]> {
  const out = join(folder, `${device}-${dtype}-${Object.keys(env).length}`.replaceAll(':', '-'));
  await inProcess(
    ['train', '--preset', 'test', '--device', device, '--dtype', dtype, '--steps', `${steps}`, '--out', out],
    env,
  );
  const lines = (await readFile(join(out, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  return lines
    .map((line) => JSON.parse(line) as { loss?: number })
    .flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
}

/** Steps of GPT-2 small, or of the test preset, on random tokens. */
async function measureStep(
  device: string,
  preset: 'gpt2-124m' | 'test',
  {
    simulated,
    memoryBytes,
    folder,
    bestProduct,
    env,
  }: { simulated: boolean; memoryBytes: number; folder: string; bestProduct: number; env: Record<string, string> },
) {
  const config = join(folder, `${preset}.json`);
  const { model, seqLen = 64 } = presets[preset]() as { model: { config: unknown }; seqLen?: number };
  await writeFile(config, JSON.stringify(model.config));
  const batch = simulated ? 2 : preset === 'test' ? 256 : memoryBytes > 36 * 2 ** 30 ? 32 : 8;
  const args = [
    '--config',
    config,
    '--batch',
    `${batch}`,
    '--seq',
    `${seqLen}`,
    '--dtype',
    'bf16',
    '--steps',
    simulated ? '2' : '20',
    '--warmup',
    '3',
  ];
  const measured = (await inProcess(['bench', 'step', '--device', device, ...args], env)) as Record<string, number>;
  const { tokens_per_s: speed = 0, step_ms: ms = 0, flops_per_token: flops = 0 } = measured;
  const tflops = (speed * flops) / 1e12;
  const share = `${((100 * tflops) / bestProduct).toFixed(0)} % of the fastest product measured here`;
  const summary = `${batch}×${seqLen} tokens: ${formatInteger(speed)} tokens/s, ${ms.toFixed(1)} ms a step, ${tflops.toFixed(1)} TFLOP/s of the model (${share})`;
  return { passed: speed > 0, summary, details: { batch, seqLen, ...measured } };
}

async function testKernels({ device: name, from }: CudaSelftestFlags): Promise<void> {
  using device = openDevice(name);
  const onBegin = (at: number, name: string) => printJson({ at, name });
  const { results } = await selfTest(device, (row) => printJson({ row }), { from, onBegin, endsAtError: true });
  if (!results.at(-1)?.isError) printJson({ isDone: true });
}

async function measureKernels({ device: name, from }: CudaSelftestFlags): Promise<void> {
  using device = openDevice(name);
  const onBegin = (at: number, name: string) => printJson({ at, name });
  const sizes = device.name === 'cuda-sim' ? { shrink: 64, times: 1 } : {};
  await benchmark(device, { ...sizes, from, onBegin }, (rows) => {
    for (const row of rows) printJson({ row });
  });
  printJson({ isDone: true });
}

/** The fastest product and the fastest pass over memory: what this card reached at its best, here. */
function peaksOf(rows: readonly Benchmark[]) {
  const products = rows.filter(({ kernel }) => kernel === 'matmul');
  const tflops = Math.max(...products.map((row) => row.tflops));
  const gbPerSecond = Math.max(...rows.filter(({ kernel }) => kernel === 'elementwise').map((row) => row.gbPerSecond));
  return {
    tflops,
    gbPerSecond,
    summary: `products at up to ${tflops.toFixed(1)} TFLOP/s, copies at ${gbPerSecond.toFixed(0)} GB/s`,
  };
}

async function write(folder: string, report: Report): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'selftest.json'), `${JSON.stringify(report, null, 1)}\n`);
  await writeFile(join(folder, 'selftest.md'), `${asMarkdown(report)}\n`);
}

function asMarkdown({ device, card, libraries, hadal, date, simulated, parts }: Report): string {
  const { name, major, minor, memoryBytes } = card as {
    name: string;
    major: number;
    minor: number;
    memoryBytes: number;
  };
  const about = simulated
    ? 'The simulated device: its times say nothing about a GPU.'
    : `${name}, compute capability ${major}.${minor}, ${formatBytes(memoryBytes)}.`;
  const measured = parts.filter(({ name, details }) => name.startsWith('microbenchmarks') && details !== null);
  return [
    `# Self-test of ${device}`,
    '',
    `${about} hadal ${hadal}, ${date}. ${libraries.join('; ')}.`,
    '',
    ...tableOf([
      ['part', 'result', 's', ''],
      ...parts.map((part) => [part.name, part.passed ? 'passed' : 'FAILED', part.seconds.toFixed(1), part.summary]),
    ]),
    ...measured.flatMap((part) => ['', `## ${part.name}`, '', ...benchmarkTable(part.details as Benchmark[])]),
  ].join('\n');
}

function benchmarkTable(rows: readonly Benchmark[]): string[] {
  const peaks = peaksOf(rows);
  const share = (row: Benchmark) => Math.max(row.tflops / peaks.tflops, row.gbPerSecond / peaks.gbPerSecond);
  return tableOf([
    ['kernel', 'of', 'ms', 'TFLOP/s', 'GB/s', 'share of the best measured'],
    ...rows.map((row) => [
      ...[row.kernel, row.name, row.ms.toFixed(3), row.tflops.toFixed(1), row.gbPerSecond.toFixed(0)],
      `${(100 * share(row)).toFixed(0)} %`,
    ]),
  ]);
}

function tableOf([head = [], ...rows]: string[][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), `${'|---'.repeat(head.length)}|`, ...rows.map(line)];
}
