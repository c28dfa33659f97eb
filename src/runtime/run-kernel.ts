import { loadAddon } from '../addon/addon.js';
import { HadalError } from '../core/errors.js';
import { nearest } from '../core/nearest.js';
import type { KernelCall } from '../graph/op.js';
import type { Device } from './device.js';
import { type BufferRef, encode, type PlannedInstruction } from './encode.js';
import { kernelInfo, kernelNames, packParams } from './kernel-params.js';
import type { TensorSpec } from './plan.js';
import type { DeviceTarget } from './target.js';
import { Tensor } from './tensor.js';

/** What a kernel works on: memory of JavaScript (no copy is made), a tensor of the device, or nothing. */
export type KernelBuffer = NodeJS.TypedArray | Tensor | null;

/**
 * Runs one kernel alone, through the same table and executor as programs.
 *
 * @param params - by the names of the kernel's struct (native/ops/<family>.h)
 * @param buffers - in the kernel's declared order; outputs are written into them
 * @returns milliseconds it took
 * @throws HadalError HADAL_ERR_NATIVE for an unknown kernel or params it refuses, HADAL_ERR_SHAPE for buffers that are
 *   missing or too small, HADAL_ERR_RUN when the kernel refuses its data
 */
export async function runKernel(
  device: Device,
  name: string,
  params: KernelCall['params'],
  buffers: readonly KernelBuffer[],
): Promise<number> {
  const packed = checkedParams(name, params);
  const { workspaceBytes, list } = describe(name, packed, device.target);
  if (buffers.length !== list.length) {
    const names = list.map((buffer) => buffer.name).join(', ');
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[${name}] expected ${list.length} buffers (${names}), got ${buffers.length}`,
    );
  }
  const slots: TensorSpec[] = [];
  const inputs: TensorSpec[] = [];
  const tensors: Record<string, Tensor> = {};
  const arrays: Record<string, NodeJS.TypedArray> = {};
  const refs = list.map(({ name: buffer, bytes, isOptional }, i): BufferRef | null => {
    const given = buffers[i] ?? null;
    const got = given === null ? 'none' : given instanceof Tensor ? given.bytes : given.byteLength;
    if (got === 'none' ? bytes > 0 && !isOptional : got < bytes) {
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[${name}] buffer '${buffer}' expected at least ${bytes} bytes, got ${got}`,
      );
    }
    if (given === null) return null;
    const key = `${i}`;
    if (given instanceof Tensor) {
      tensors[key] = given;
      return {
        space: 'slot',
        index: slots.push({ name: key, shape: given.shape, dtype: given.dtype }) - 1,
        offset: 0,
        bytes: given.bytes,
      };
    }
    arrays[key] = given;
    const spec: TensorSpec = { name: key, shape: [given.byteLength], dtype: 'uint8' };
    return { space: 'input', index: inputs.push(spec) - 1, offset: 0, bytes: given.byteLength };
  });
  const instruction: PlannedInstruction = {
    kernel: name,
    params: packed,
    queue: 'compute',
    isTimed: false,
    workspace: { offset: 0, bytes: workspaceBytes },
    predicate: null,
    buffers: refs,
    waits: [],
  };
  const program = device.load({
    ...encode([instruction]),
    constants: new Uint8Array(),
    arenaBytes: workspaceBytes,
    workspaceBytes,
    atPeak: { activations: 0, gradients: 0, workspace: workspaceBytes },
    offloadWindowBytes: 0,
    slots,
    inputs,
    outputs: [],
    instructions: [{ op: name, scope: '', kernel: name, flops: 0, bytesRead: 0, bytesWritten: 0, queue: 'compute' }],
    target: device.target,
  });
  const { instructions } = await device.run([{ program, slots: tensors, inputs: arrays }], { profile: true });
  return instructions[0]?.ms ?? 0;
}

function checkedParams(kernel: string, params: KernelCall['params']): Uint8Array {
  const names = kernelNames();
  if (!names.includes(kernel)) {
    const near = nearest(kernel, names);
    const hint = near ? `did you mean '${near}'?` : `there are ${names.join(', ')}`;
    throw new HadalError('HADAL_ERR_NATIVE', `[runKernel] expected the name of a kernel, got '${kernel}'; ${hint}`);
  }
  const fields = kernelInfo(kernel).fields.map((field) => field.name);
  const missing = fields.filter((field) => params[field] === undefined);
  const unknown = Object.keys(params).filter((field) => !fields.includes(field));
  if (missing.length > 0 || unknown.length > 0) {
    const differences = [
      ...missing.map((field) => `no '${field}'`),
      ...unknown.map((field) => `an unknown '${field}'`),
    ];
    throw new HadalError(
      'HADAL_ERR_NATIVE',
      `[${kernel}] expected params ${fields.join(', ')}, got ${differences.join(', ')}`,
    );
  }
  return packParams(kernel, params);
}

/** Workspace and buffers of a call; refuses params that make no sense. */
function describe(kernel: string, params: Uint8Array, { threads, backend }: DeviceTarget) {
  try {
    const addon = loadAddon();
    return {
      workspaceBytes: addon.workspaceBytes(kernel, params, threads, backend),
      list: addon.bufferList(kernel, params),
    };
  } catch (error) {
    throw new HadalError('HADAL_ERR_NATIVE', (error as Error).message, { cause: error });
  }
}
