// Optimizers' ops: several tensors in one call, each with its gradient and what the optimizer remembers of it. The order of
// inputs, outputs and buffers is the same for all optimizers.
import type { DType } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import type { Value } from '../graph/graph.js';
import type { Cost, KernelCall } from '../graph/op.js';
import { defineOp, expectDType, expectShape } from './define-op.js';

/** Tensors of one call: `maxListTensors` of native/core/tensor-list.h. */
export const maxTensors = 16;

/**
 * Numbers beyond which a call takes no more tensors: it then runs for half a millisecond, beside which what it costs to begin
 * does not count, and where state lies in a file, little of it is in memory at once.
 */
const fullCall = 2 ** 20;

/** Tensors in the order given, as many at a time as a call takes. @param sizeOf - its numbers */
export function inCalls<T>(tensors: readonly T[], sizeOf: (tensor: T) => number): T[][] {
  const calls: T[][] = [];
  let numbers = 0;
  for (const tensor of tensors) {
    const call = calls.at(-1);
    const isFull = !call || call.length === maxTensors || numbers + sizeOf(tensor) > fullCall;
    if (isFull) calls.push([tensor]);
    else call.push(tensor);
    numbers = sizeOf(tensor) + (isFull ? 0 : numbers);
  }
  return calls;
}

/** A field of a kernel's params that has an entry for each tensor. */
export const padded = <T>(items: readonly T[], filler: T): T[] => [
  ...items,
  ...Array<T>(maxTensors - items.length).fill(filler),
];

/** Sizes of the tensors of a call. */
export const countsOf = (tensors: readonly Value[]): number[] =>
  padded(
    tensors.map(({ size }) => size),
    0,
  );

/** Number formats of the tensors of a call. */
export const dtypesOf = (tensors: readonly Value[]): DType[] =>
  padded<DType>(
    tensors.map(({ dtype }) => dtype),
    'fp32',
  );

/** Format of a copy in 16 bits; null where none is wanted. */
export type CopyDType = DType | null;

/** Formats of the copies of a call. */
export const copyDTypesOf = (copies: readonly CopyDType[]): DType[] =>
  padded<DType>(
    copies.map((dtype) => dtype ?? 'bf16'),
    'bf16',
  );

/** The copies that a call gives, with nulls where none was asked for. */
export function spreadCopies(copies: readonly CopyDType[], made: readonly Value[]): (Value | null)[] {
  let next = 0;
  return copies.map((dtype) => (dtype ? (made[next++] as Value) : null));
}

/** Numbers of several tensors. */
export const totalSize = (tensors: readonly Value[]): number => tensors.reduce((sum, { size }) => sum + size, 0);

/** Cost of a kernel that reads and writes everything once. */
export function passCost(flops: number, inputs: readonly (Value | null)[], outputs: readonly Value[]): Cost {
  const total = (values: readonly (Value | null)[]) => values.reduce((sum, value) => sum + (value?.bytes ?? 0), 0);
  return { flops, bytesRead: total(inputs), bytesWritten: total(outputs) };
}

/** Checks inputs that are one number each. @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE */
export function expectNumbers(op: string, names: readonly string[], values: readonly (Value | null)[]): void {
  for (const [i, name] of names.entries()) {
    const value = values[i];
    if (!value) continue;
    expectDType(op, name, value, 'fp32');
    expectShape(op, name, value, [1]);
  }
}

/** A tensor to update; what the optimizer remembers of it comes by names of its own, in the shape of param, one format. */
export interface UpdatedTensor {
  /** Any shape, float. */
  param: Value;
  /** Shape of param, float. */
  grad: Value;
  /** Format in which the next param is wanted, too. */
  copy?: CopyDType;
}

/** A tensor after the update. */
export interface UpdateResult {
  param: Value;
  /** Null where none was asked for. */
  copy: Value | null;
}

/** What tells one optimizer from another. */
interface UpdateDefinition<State extends string, Factor extends string> {
  /** Of the op and of its kernel. */
  name: string;
  /** Inputs, fp32 [1] each, that all tensors share; some may be null. */
  numbers: readonly string[];
  /** What is remembered of a tensor. */
  state: readonly State[];
  /** Numbers that each tensor has of its own, with their defaults; fields of the kernel's params. */
  factors: Readonly<Record<Factor, number>>;
  /** Of one number of a tensor. */
  flops: number;
}

interface UpdateAttrs {
  options: Readonly<Record<string, number>>;
  factors: Readonly<Record<string, readonly number[]>>;
  copies: readonly CopyDType[];
}

/**
 * Makes the op of an optimizer. Its outputs are next param and state of each tensor, then the copies that are asked for.
 *
 * @returns what applies it to any number of tensors, `options` being the other fields of the kernel's params
 */
export function defineUpdate<State extends string, Factor extends string>(
  definition: UpdateDefinition<State, Factor>,
): (
  tensors: readonly (UpdatedTensor & Record<State, Value> & Partial<Record<Factor, number>>)[],
  numbers: readonly (Value | null)[],
  options: Readonly<Record<string, number>>,
) => (UpdateResult & Record<State, Value>)[] {
  const { name, numbers: numberNames, state, factors, flops } = definition;
  const [read, written] = [2 + state.length, 1 + state.length];
  const tensorsOf = (inputs: readonly (Value | null)[]) =>
    Array.from({ length: (inputs.length - numberNames.length) / read }, (_, i) => {
      const own = inputs.slice(numberNames.length + read * i) as Value[];
      const [param, grad] = own as [Value, Value];
      return { param, grad, kept: own.slice(2, read) };
    });

  const op = defineOp<UpdateAttrs, readonly (Value | null)[], readonly Value[]>({
    name,
    infer(inputs, { copies }) {
      expectNumbers(name, numberNames, inputs);
      const tensors = tensorsOf(inputs);
      for (const { param, grad, kept } of tensors) {
        expectDType(name, 'param', param, 'float');
        expectDType(name, 'grad', grad, 'float');
        expectShape(name, 'grad', grad, param.shape);
        for (const [i, value] of kept.entries()) {
          expectDType(name, state[i] as string, value, i === 0 ? 'float' : (kept[0] as Value).dtype);
          expectShape(name, state[i] as string, value, param.shape);
        }
      }
      return [
        ...tensors.flatMap(({ param, kept }) => [param, ...kept].map(({ shape, dtype }) => ({ shape, dtype }))),
        ...tensors.flatMap(({ param: { shape } }, i) => (copies[i] ? [{ shape, dtype: copies[i] }] : [])),
      ];
    },
    inPlace: Array.from({ length: maxTensors }, (_, i) =>
      Array.from({ length: written }, (_, n) => {
        const input = n === 0 ? 0 : n + 1;
        return [written * i + n, numberNames.length + read * i + input] as const;
      }),
    ).flat(),
    cost: (inputs, outputs) =>
      passCost(flops * totalSize(tensorsOf(inputs).map(({ param }) => param)), inputs, outputs),
    kernel(inputs, outputs, attrs) {
      const tensors = tensorsOf(inputs);
      const copies = spreadCopies(attrs.copies, outputs.slice(written * tensors.length));
      const params: KernelCall['params'] = {
        tensors: tensors.length,
        ...attrs.options,
        ...Object.fromEntries(Object.entries(attrs.factors).map(([factor, values]) => [factor, padded(values, 0)])),
        count: countsOf(tensors.map(({ param }) => param)),
        dtype: dtypesOf(tensors.map(({ param }) => param)),
        gradDtype: dtypesOf(tensors.map(({ grad }) => grad)),
        momentDtype: dtypesOf(tensors.flatMap(({ kept }) => kept[0] ?? [])),
        copyDtype: copyDTypesOf(attrs.copies),
      };
      const own = tensors.flatMap(({ param, grad, kept }, i) => [
        ...[param, grad, ...kept],
        ...outputs.slice(written * i, written * (i + 1)),
        copies[i] ?? null,
      ]);
      return { kernel: name, params, buffers: [...inputs.slice(0, numberNames.length), ...own] };
    },
  });

  return (tensors, numbers, options) =>
    inCalls(tensors, ({ param }) => param.size).flatMap((call) => {
      const copies = call.map(({ copy }) => copy ?? null);
      const names = Object.keys(factors) as Factor[];
      const own = names.map((factor) => [factor, call.map((tensor) => tensor[factor] ?? factors[factor])] as const);
      const outputs = op.apply(
        [...numbers, ...call.flatMap((tensor) => [tensor.param, tensor.grad, ...state.map((key) => tensor[key])])],
        { options, factors: Object.fromEntries(own), copies },
      );
      const made = spreadCopies(copies, outputs.slice(written * call.length));
      return call.map((_, i) => {
        const [param, ...kept] = outputs.slice(written * i, written * (i + 1));
        invariant(param, 'an update is missing');
        const next = Object.fromEntries(state.map((key, n) => [key, kept[n]])) as Record<State, Value>;
        return { ...next, param, copy: made[i] ?? null };
      });
    });
}
