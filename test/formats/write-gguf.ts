// GGUF files of any contents, also impossible ones.

/** A metadata entry: key, type number, bytes of the value. */
export type Entry = readonly [key: string, type: number, value: Uint8Array];

export interface TensorInfo {
  name: string;
  /** In the file's order: the fastest dim first. */
  dims: readonly (number | bigint)[];
  type: number;
  data: Uint8Array;
  /** Where the data are said to begin, when it is not where they do. */
  offset?: bigint;
}

export const concat = (...chunks: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(chunks));
const littleEndian = (write: (view: DataView) => void, bytes: number): Uint8Array => {
  const array = new Uint8Array(bytes);
  write(new DataView(array.buffer));
  return array;
};
export const u32 = (n: number) => littleEndian((view) => view.setUint32(0, n, true), 4);
export const u64 = (n: number | bigint) => littleEndian((view) => view.setBigUint64(0, BigInt(n), true), 8);
export const f32 = (n: number) => littleEndian((view) => view.setFloat32(0, n, true), 4);
export const text = (value: string): Uint8Array => {
  const bytes = new TextEncoder().encode(value);
  return concat(u64(bytes.length), bytes);
};
const array = (type: number, items: readonly Uint8Array[]) => concat(u32(type), u64(items.length), ...items);

export const entry = {
  text: (key: string, value: string): Entry => [key, 8, text(value)],
  u32: (key: string, value: number): Entry => [key, 4, u32(value)],
  f32: (key: string, value: number): Entry => [key, 6, f32(value)],
  bool: (key: string, value: boolean): Entry => [key, 7, Uint8Array.of(Number(value))],
  texts: (key: string, values: readonly string[]): Entry => [key, 9, array(8, values.map(text))],
  i32s: (key: string, values: readonly number[]): Entry => [key, 9, array(5, values.map(u32))],
  f32s: (key: string, values: readonly number[]): Entry => [key, 9, array(6, values.map(f32))],
};

/** The bytes of a file. */
export function gguf(
  entries: readonly Entry[],
  tensors: readonly TensorInfo[] = [],
  { version = 3, alignment = 32, counts = [tensors.length, entries.length] as readonly (number | bigint)[] } = {},
): Uint8Array {
  const padded = (bytes: Uint8Array) =>
    concat(bytes, new Uint8Array(Math.ceil(bytes.length / alignment) * alignment - bytes.length));
  let offset = 0;
  const infos = tensors.map((tensor) => {
    const begin = offset;
    offset += padded(tensor.data).length;
    const { name, dims, type } = tensor;
    return concat(text(name), u32(dims.length), ...dims.map(u64), u32(type), u64(tensor.offset ?? begin));
  });
  const metadata = entries.map(([key, type, value]) => concat(text(key), u32(type), value));
  const head = concat(u32(0x46554747), u32(version), ...counts.map(u64), ...metadata, ...infos);
  return concat(tensors.length > 0 ? padded(head) : head, ...tensors.map(({ data }) => padded(data)));
}
