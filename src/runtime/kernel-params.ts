import { type KernelField, type KernelInfo, loadAddon } from '../addon/addon.js';
import { type DType, dtypes } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import type { KernelCall } from '../graph/op.js';

let layouts: Record<string, KernelInfo> | undefined;

/** Params layout of a kernel, as the native binary describes it. */
export function kernelInfo(name: string): KernelInfo {
  layouts ??= loadAddon().kernels();
  const info = layouts[name];
  invariant(info, `no kernel '${name}' in the native binary`);
  return info;
}

/** Names of all kernels of the native binary. */
export function kernelNames(): string[] {
  layouts ??= loadAddon().kernels();
  return Object.keys(layouts);
}

/**
 * Packs params by name into the kernel's struct.
 *
 * @throws HadalError HADAL_ERR_INTERNAL where a field is missing, unknown, or of another length
 */
export function packParams(kernel: string, params: KernelCall['params']): Uint8Array {
  const { fields, paramsBytes } = kernelInfo(kernel);
  const packed = new Uint8Array(paramsBytes);
  const view = new DataView(packed.buffer);
  for (const field of fields) {
    const given = params[field.name];
    invariant(given !== undefined, `kernel '${kernel}' expects a param '${field.name}'`);
    const items: ArrayLike<number | DType> = typeof given === 'object' ? given : [given];
    invariant(items.length === field.count, `param '${field.name}' of kernel '${kernel}' expects ${field.count} items`);
    for (let i = 0; i < field.count; i++) writeItem(view, field, i, items[i] as number | DType);
  }
  const unknown = Object.keys(params).find((name) => !fields.some((field) => field.name === name));
  invariant(unknown === undefined, `kernel '${kernel}' has no param '${unknown}'`);
  return packed;
}

function writeItem(view: DataView, { name, type, offset }: KernelField, i: number, item: number | DType): void {
  if (type === 'dtype') {
    invariant(typeof item === 'string', `param '${name}' expects a dtype`);
    view.setInt32(offset + 4 * i, dtypes[item].code, true);
    return;
  }
  invariant(typeof item === 'number', `param '${name}' expects a number`);
  if (type === 'int64') view.setBigInt64(offset + 8 * i, BigInt(item), true);
  else if (type === 'float64') view.setFloat64(offset + 8 * i, item, true);
  else view.setUint8(offset + i, item);
}
