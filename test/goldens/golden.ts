// Reads the cases that make_goldens.py wrote; see README.md.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openSafetensors } from '../../src/formats/safetensors.js';

/** Directory of a case. */
export const goldenDir = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

export interface GoldenTensor {
  shape: readonly number[];
  data: Float32Array | Int32Array;
}

/** Every tensor of a file. */
export async function readGolden(name: string, file = 'golden.safetensors'): Promise<Map<string, GoldenTensor>> {
  await using opened = await openSafetensors(join(goldenDir(name), file));
  const tensors = new Map<string, GoldenTensor>();
  for (const [key, { dtype, shape }] of opened.tensors) {
    const { buffer } = Uint8Array.from(await opened.read(key));
    tensors.set(key, { shape, data: dtype === 'I32' ? new Int32Array(buffer) : new Float32Array(buffer) });
  }
  return tensors;
}

/** A tensor that must be there. */
export function tensorOf(golden: ReadonlyMap<string, GoldenTensor>, name: string): GoldenTensor {
  const tensor = golden.get(name);
  if (!tensor) throw new Error(`no tensor '${name}' in the golden`);
  return tensor;
}

/** An int32 [B, T] tensor as rows. */
export function rowsOf(golden: ReadonlyMap<string, GoldenTensor>, name: string): number[][] {
  const { shape, data } = tensorOf(golden, name);
  const [rows, columns] = shape as [number, number];
  return Array.from({ length: rows }, (_, b) => Array.from(data.subarray(b * columns, (b + 1) * columns)));
}

/** Tensors whose name begins with `prefix`, without it. */
export function withPrefix(golden: ReadonlyMap<string, GoldenTensor>, prefix: string): Map<string, GoldenTensor> {
  const found = [...golden].filter(([name]) => name.startsWith(prefix));
  return new Map(found.map(([name, tensor]) => [name.slice(prefix.length), tensor]));
}
