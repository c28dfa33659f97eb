// Whether a device computes what the processor does, before it is trusted with a run.
import { loadAddon } from '../addon/addon.js';
import { bytesOf, type DType } from '../core/dtype.js';
import { sizeOf } from '../core/shape.js';
import { fromFloat32, toFloat32 } from '../formats/convert.js';
import { Graph } from '../graph/graph.js';
import { compile } from '../runtime/compile.js';
import { type Device, openDevice } from '../runtime/device.js';
import { type InputSpec, resultsOf, type SelfTestCase, selfTestCases } from './cases.js';

/** What one case gave. */
export interface SelfTestResult {
  name: string;
  dtype: string;
  /** Kernels that ran in it. */
  kernels: string[];
  /** Largest difference from the processor's numbers, as a share of what is allowed. */
  error: number;
  /** What went wrong, naming the worst number; null where nothing did. */
  failure: string | null;
  /** The device gave an error instead of numbers, after which it may be of no use to this process. */
  isError: boolean;
}

/** For who tests in several processes, since a GPU may be of no use to a process any more. */
export interface SelfTestOptions {
  /** How many cases are left out at the beginning. */
  from?: number;
  /** Called before each case, with its place. */
  onBegin?: (at: number, name: string) => void;
  /** Nothing is computed after an error of the device. */
  endsAtError?: boolean;
}

/** What a device gave. */
export interface SelfTestReport {
  results: SelfTestResult[];
  /** Kernels that ran in a failing case, and in none of the same number format that did not fail. */
  suspects: string[];
}

/** Relative to the largest number of a result: a few roundings of the dtype. */
const allowance: Readonly<Record<string, number>> = { fp32: 1e-4, bf16: 4e-2, fp16: 6e-3 };

/**
 * Computes every case on a device and on the processor, and compares.
 *
 * @param onResult - called after each case
 */
export async function selfTest(
  device: Device,
  onResult: (result: SelfTestResult) => void = () => {},
  { from = 0, onBegin = () => {}, endsAtError = false }: SelfTestOptions = {},
): Promise<SelfTestReport> {
  using processor = openDevice('cpu', { threads: 1 });
  const results: SelfTestResult[] = [];
  const all = selfTestCases.flatMap((one) => one.dtypes.map((dtype) => ({ one, dtype })));
  for (const [at, { one, dtype }] of all.entries()) {
    if (at < from) continue;
    onBegin(at, `${one.name} in ${dtype}`);
    const result = await testCase(one, dtype, device, processor);
    results.push(result);
    onResult(result);
    if (endsAtError && result.isError) break;
  }
  return { results, suspects: suspectsOf(results) };
}

/** A kernel that any case of the same number format got right is not at fault where another one fails. @internal */
export function suspectsOf(results: readonly SelfTestResult[]): string[] {
  const uses = (failed: boolean) =>
    results
      .filter(({ failure }) => (failure !== null) === failed)
      .flatMap(({ kernels, dtype }) => kernels.map((kernel) => `${dtype} ${kernel}`));
  const [good, bad] = [new Set(uses(false)), new Set(uses(true))];
  const found = [...bad].filter((use) => !good.has(use));
  const named = (found.length > 0 ? found : [...bad]).map((use) => use.split(' ')[1] as string);
  return [...new Set(named)].sort();
}

async function testCase(
  one: SelfTestCase,
  dtype: 'fp32' | 'bf16' | 'fp16',
  device: Device,
  processor: Device,
): Promise<SelfTestResult> {
  const expected = await compute(one, dtype, processor);
  const about = { name: one.name, dtype, kernels: expected.kernels, isError: false };
  try {
    const got = await compute(one, dtype, device);
    const worst = expected.results.map((result, i) =>
      compare(result, got.results[i] as Result, allowance[dtype] as number, i),
    );
    const error = Math.max(...worst.map((one) => one.error));
    return { ...about, kernels: got.kernels, error, failure: worst.find((one) => one.error > 1)?.text ?? null };
  } catch (error) {
    return { ...about, error: Number.POSITIVE_INFINITY, failure: (error as Error).message, isError: true };
  }
}

interface Result {
  dtype: DType;
  numbers: Float32Array;
}

async function compute(one: SelfTestCase, dtype: 'fp32' | 'bf16' | 'fp16', device: Device) {
  const graph = new Graph();
  const inputs: Record<string, NodeJS.TypedArray> = {};
  const values = Object.fromEntries(
    Object.entries(one.inputs).map(([name, spec], i) => {
      const type = dtypeOf(spec, dtype);
      inputs[name] = fill(spec, type, i + 1);
      return [name, graph.input(name, spec.shape, type)];
    }),
  );
  for (const [i, value] of resultsOf(one, values, graph).entries()) graph.output(`result${i}`, value);
  const program = device.load(compile(graph, device.target));
  const outputs = Object.fromEntries(
    program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]),
  );
  try {
    await device.run([{ program, slots: outputs, inputs }]);
    const results: Result[] = [];
    for (const spec of program.outputs) {
      const bytes = new Uint8Array(bytesOf(spec.dtype, sizeOf(spec.shape)));
      await outputs[spec.name]?.read(bytes);
      results.push({ dtype: spec.dtype, numbers: numbersOf(bytes, spec.dtype) });
    }
    return { results, kernels: [...new Set(program.instructions.map(({ kernel }) => kernel))] };
  } finally {
    for (const tensor of Object.values(outputs)) tensor.dispose();
  }
}

function dtypeOf(spec: InputSpec, dtype: DType): DType {
  if ('values' in spec) return spec.dtype;
  if ('below' in spec) return 'int32';
  return spec.kind === 'fp32' ? 'fp32' : dtype;
}

/** The same numbers everywhere: sums of a multiplicative sequence's, nearly normal. */
function fill(spec: InputSpec, dtype: DType, seed: number): NodeJS.TypedArray {
  const count = sizeOf(spec.shape);
  if ('values' in spec) return dtype === 'int32' ? Int32Array.from(spec.values) : Float32Array.from(spec.values);
  let state = (seed * 0x9e3779b1) >>> 0;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 24;
  };
  if ('below' in spec) return Int32Array.from({ length: count }, () => Math.floor(uniform() * spec.below));
  const normal = () => 2 * (uniform() + uniform() + uniform()) - 3;
  const numbers = Float32Array.from({ length: count }, normal);
  const floats = spec.isPositive ? numbers.map(Math.abs) : numbers;
  return dtype === 'fp32' ? floats : Uint8Array.from(fromFloat32(dtype === 'bf16' ? 'BF16' : 'F16', floats));
}

function numbersOf(bytes: Uint8Array, dtype: DType): Float32Array {
  if (dtype === 'int32') return Float32Array.from(new Int32Array(bytes.buffer));
  return dtype === 'fp32' ? new Float32Array(bytes.buffer) : toFloat32(dtype === 'bf16' ? 'BF16' : 'F16', bytes);
}

/** NaN is equal to NaN alone. */
function compare(expected: Result, got: Result, relative: number, index: number) {
  const largest = expected.numbers.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  const allowed = expected.dtype === 'int32' ? 0.5 : relative * largest + 1e-9;
  let worst = { error: 0, at: 0 };
  for (const [at, x] of expected.numbers.entries()) {
    const y = got.numbers[at] as number;
    if (Object.is(x, y) || x === y) continue;
    const error = Math.abs(x - y) / allowed;
    if (!(error <= worst.error)) worst = { error: Number.isNaN(error) ? Number.POSITIVE_INFINITY : error, at };
  }
  const text = `result ${index}, number ${worst.at}: expected ${expected.numbers[worst.at]}, got ${got.numbers[worst.at]} (allowed ${allowed.toExponential(1)})`;
  return { error: worst.error, text };
}

/** Kernels of this build that no case of the self-test runs. @internal */
export function untested(report: SelfTestReport): string[] {
  const tested = new Set(report.results.flatMap(({ kernels }) => kernels));
  return Object.keys(loadAddon().kernels()).filter((kernel) => !tested.has(kernel));
}
