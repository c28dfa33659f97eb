// One case table an op: forward against a float64 reference, gradients against finite differences of that reference,
// the fused form against its lowered form; on every device, in every dtype.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { gradients } from '../../src/autodiff/gradients.js';
import type { DType } from '../../src/core/dtype.js';
import { sizeOf } from '../../src/core/shape.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { add, cast, multiply } from '../../src/ops/elementwise.js';
import { sum } from '../../src/ops/reduce.js';
import { reshape } from '../../src/ops/shape.js';
import { compile } from '../../src/runtime/compile.js';
import { type Device, openDevice } from '../../src/runtime/device.js';
import { compare, type FloatDType, roundAll, ulp } from './compare.js';
import { fromFloats, toFloats } from './float-bytes.js';
import { lowerAll } from './lower-all.js';
import { Rng } from './rng.js';

export interface CaseInput {
  shape: number[];
  /** 'float' follows the dtype under test; others stay what they are. */
  dtype?: 'float' | DType;
  /** Default: normal(0, 1). */
  values?: (rng: Rng, index: number) => number;
}

export type Reference = (inputs: Record<string, Float64Array>, r: (x: number) => number) => ArrayLike<number>[];

export interface OpCase {
  name: string;
  inputs: Record<string, CaseInput>;
  build(values: Record<string, Value>): Value | readonly Value[];
  /** From the formula. `r` goes around every arithmetic result: identity gives float64, fround plain fp32. */
  reference: Reference;
  /** Inputs whose gradients are checked; default: all float ones. */
  differentiable?: string[];
  dtypes?: FloatDType[];
  /** Factor on the default allowance. */
  tolerance?: number;
  /** Big: only for benches. */
  bench?: boolean;
}

/** HADAL_TEST_DEVICE: another device than the processor, on which tests of kernels then run. */
export const testDeviceName = process.env.HADAL_TEST_DEVICE || 'cpu';

/** Devices that case tables run on: the one that was asked for, else the processor and, where it is built, the simulated GPU. */
const tableDevices = process.env.HADAL_TEST_DEVICE
  ? [testDeviceName]
  : ['cpu', ...(loadAddon().backend('cuda-sim').isBuilt ? ['cuda-sim'] : [])];

const open = new Map<string, Device>();
let current = testDeviceName;
/** The device under test; one of a kind for the whole file. */
export function testDevice(): Device {
  const device = open.get(current) ?? openDevice(current, { threads: 2 });
  open.set(current, device);
  return device;
}
afterAll(() => {
  for (const device of open.values()) device.dispose();
  open.clear();
});

/** Builds a graph over named inputs, runs it, and returns the outputs as float64. */
export async function runGraph(
  inputs: Record<string, { shape: readonly number[]; dtype: DType; data: ArrayLike<number> }>,
  build: (values: Record<string, Value>, graph: Graph) => readonly Value[],
  transform: (graph: Graph) => Graph = (graph) => graph,
): Promise<Float64Array[]> {
  const graph = new Graph();
  const values = Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, dtype }]) => [name, graph.input(name, shape, dtype)]),
  );
  for (const [i, value] of build(values, graph).entries()) graph.output(`out${i}`, value);
  verify(graph);
  const transformed = transform(graph);
  verify(transformed);
  const on = testDevice();
  const program = on.load(compile(transformed, on.target));
  const outputs = Object.fromEntries(program.outputs.map((spec) => [spec.name, on.allocate(spec.shape, spec.dtype)]));
  const arrays = Object.fromEntries(
    Object.entries(inputs).map(([name, { dtype, data }]) => [name, fromFloats(data, dtype)]),
  );
  await on.run([{ program, slots: outputs, inputs: arrays }]);
  return Promise.all(
    program.outputs.map(async (spec) => {
      using tensor = outputs[spec.name] as NonNullable<(typeof outputs)[string]>;
      return toFloats(await tensor.read(new Uint8Array(tensor.bytes)), spec.dtype);
    }),
  );
}

/** Registers the tests of a family, on each device. */
export function describeOp(family: string, cases: readonly OpCase[], devices: readonly string[] = tableDevices): void {
  for (const device of devices) describeOn(device, family, cases);
}

function describeOn(device: string, family: string, cases: readonly OpCase[]): void {
  const small = cases.filter((c) => !c.bench);
  describe(`${family} on ${device}`, () => {
    beforeAll(() => {
      current = device;
    });
    afterAll(() => {
      current = testDeviceName;
    });
    for (const dtype of ['fp32', 'bf16', 'fp16'] as const) {
      for (const c of small.filter(({ dtypes }) => dtypes?.includes(dtype) ?? true)) {
        const label = `${c.name} ${dtype}`;
        it(`forward ${label}`, () => checkForward(family, c, dtype));
        if (differentiable(c).length > 0) it(`gradients ${label}`, () => checkGradients(family, c, dtype));
      }
    }
  });
}

const differentiable = (c: OpCase) =>
  c.differentiable ?? Object.keys(c.inputs).filter((name) => c.inputs[name]?.dtype !== 'int32');

function makeInputs(c: OpCase, dtype: FloatDType) {
  const rng = new Rng(c.name);
  return Object.fromEntries(
    Object.entries(c.inputs).map(([name, { shape, dtype: kind = 'float', values }]) => {
      const type: DType = kind === 'float' ? dtype : kind;
      const data = Float64Array.from({ length: sizeOf(shape) }, (_, i) => (values ? values(rng, i) : rng.normal()));
      return [name, { shape, dtype: type, data: type === 'int32' ? data : roundAll(type, data) }];
    }),
  );
}

const asList = (values: Value | readonly Value[]): readonly Value[] =>
  Array.isArray(values) ? values : [values as Value];
const copyOf = (inputs: ReturnType<typeof makeInputs>) =>
  Object.fromEntries(Object.entries(inputs).map(([name, { data }]) => [name, Float64Array.from(data)]));

/** What a case's reference says is the same on every device, and costs more than running the case: computed once. */
function oncePer<T>(compute: (c: OpCase, dtype: FloatDType) => T): (c: OpCase, dtype: FloatDType) => T {
  const known = new Map<OpCase, Partial<Record<FloatDType, T>>>();
  return (c, dtype) => {
    const ofCase = known.get(c) ?? {};
    known.set(c, ofCase);
    ofCase[dtype] ??= compute(c, dtype);
    return ofCase[dtype] as T;
  };
}

const forwardReference = oncePer((c, dtype) => {
  const inputs = makeInputs(c, dtype);
  return { inputs, exact: c.reference(copyOf(inputs), (x) => x), plain: c.reference(copyOf(inputs), Math.fround) };
});

async function checkForward(family: string, c: OpCase, dtype: FloatDType): Promise<void> {
  const { inputs, exact, plain } = forwardReference(c, dtype);
  let types: DType[] = [];
  const actual = await runGraph(inputs, (values) => {
    const outputs = asList(c.build(values));
    types = outputs.map((output) => output.dtype);
    return outputs;
  });
  for (const [i, expected] of exact.entries()) {
    const outputType = types[i] as DType;
    const computed = plain[i] as ArrayLike<number>;
    const rounded = outputType === 'int32' ? computed : roundAll(outputType, computed);
    compare(`${family} '${c.name}' ${dtype} ${current} output ${i}`, actual[i] as Float64Array, expected, {
      allowed: (c.tolerance ?? 1) * (2 * largestError(rounded, expected) + 2 * ulp(outputType, largest(expected))),
    });
  }
}

/** Numbers of an input whose gradient is checked by finite differences, and their step. */
const probes = 48;
const step = 1e-5;

const gradientReference = oncePer((c, dtype) => {
  const inputs = makeInputs(c, dtype);
  const rng = new Rng(`${c.name} probe`);
  const exact = (at: Record<string, Float64Array>) => c.reference(at, (x) => x);
  const weights = exact(copyOf(inputs)).map((output) =>
    roundAll(
      dtype,
      Float64Array.from({ length: output.length }, () => rng.normal()),
    ),
  );
  const loss = (at: Record<string, Float64Array>) =>
    exact(at).reduce((total, output, i) => total + dot(output, weights[i] as Float64Array), 0);
  const probed = differentiable(c).map((name) => {
    const picks = pick((inputs[name] as (typeof inputs)[string]).data.length, rng);
    const expected = picks.map((i) => {
      const shifted = (by: number) => {
        const at = copyOf(inputs);
        (at[name] as Float64Array)[i] = ((at[name] as Float64Array)[i] as number) + by;
        return loss(at);
      };
      return (shifted(step) - shifted(-step)) / (2 * step);
    });
    return { name, picks, expected };
  });
  return { inputs, weights, probed, lowered: undefined as Float64Array[] | undefined };
});

async function checkGradients(family: string, c: OpCase, dtype: FloatDType): Promise<void> {
  const reference = gradientReference(c, dtype);
  const { inputs, weights, probed } = reference;
  const weightInputs = Object.fromEntries(
    weights.map((data, i) => [`weight${i}`, { shape: [data.length], dtype: 'fp32' as DType, data }]),
  );
  // The loss Σ outputs · weights, in fp32, and its gradients.
  const build = (values: Record<string, Value>) => {
    const outputs = asList(c.build(values)).slice(0, weights.length);
    const terms = outputs.map((output, i) => {
      if (output.dtype === 'int32') return null;
      const weight = values[`weight${i}`] as Value;
      const flat = cast(output, 'fp32');
      return sum(
        multiply(flat, reshape(weight, flat.shape)),
        flat.shape.map((_, axis) => axis),
      );
    });
    const loss = terms.filter((term) => term !== null).reduce((a, b) => add(a, b));
    return gradients(
      loss,
      probed.map(({ name }) => values[name] as Value),
    );
  };
  const all = { ...inputs, ...weightInputs };
  const fused = await runGraph(all, build);
  // By the kernels of the first device; the other devices' kernels of the lowered form have tables of their own.
  reference.lowered ??= await runGraph(all, build, lowerAll);
  for (const [g, { name, picks, expected }] of probed.entries()) {
    const got = fused[g] as Float64Array;
    const label = `${family} '${c.name}' ${dtype} ${current} gradient of ${name}`;
    const type = inputs[name]?.dtype as FloatDType;
    const size = Math.max(largest(got), largest(expected));
    const allowed = (c.tolerance ?? 1) * (gradientAllowance[dtype] * size + 2 * ulp(type, size) + 1e-9);
    compare(
      label,
      Float64Array.from(picks, (i) => got[i] as number),
      expected,
      { allowed },
    );
    compare(`${label} against its lowered form`, got, reference.lowered[g] as Float64Array, { allowed: 2 * allowed });
  }
}

/** Relative to the tensor's largest element: a few roundings of the dtype on the way back. */
const gradientAllowance: Record<FloatDType, number> = { fp32: 2e-5, bf16: 3e-2, fp16: 4e-3 };

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += (a[i] as number) * (b[i] as number);
  return total;
};
const largest = (x: ArrayLike<number>) => {
  let most = 0;
  for (let i = 0; i < x.length; i++) if (Number.isFinite(x[i])) most = Math.max(most, Math.abs(x[i] as number));
  return most;
};
const largestError = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const error = Math.abs((a[i] as number) - (b[i] as number));
    if (Number.isFinite(error)) most = Math.max(most, error);
  }
  return most;
};

function pick(length: number, rng: Rng): number[] {
  if (length <= probes) return Array.from({ length }, (_, i) => i);
  return Array.from({ length: probes }, () => Math.floor(rng.uniform() * length));
}

/** A test that a call is refused with a code and a message. */
export function expectHadalError(action: () => unknown, code: string, message: RegExp): void {
  expect(action).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
}
