// Apache Thrift's compact protocol, as far as Parquet uses it:
// https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

const maxDepth = 16;

/**
 * Walks over one struct without making anything of it, so that a parser that trusts its input may read it after: no
 * number is longer than ten bytes, nothing lies outside of `bytes`, no list claims more elements than bytes are left,
 * and no nesting is deep.
 *
 * @returns where the struct ends
 * @throws RangeError when it does not end within `bytes`, Error when it is damaged in another way
 */
export function endOfThriftStruct(bytes: Uint8Array, begin: number): number {
  let at = begin;
  const byte = (): number => {
    const value = bytes[at++];
    if (value === undefined) throw new RangeError('a struct without end');
    return value;
  };
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const next = byte();
      value += (next & 0x7f) * 2 ** shift;
      if (next < 0x80) return value;
    }
    throw new Error('a number of more than ten bytes');
  };
  const skip = (count: number): void => {
    if (count > bytes.length - at) throw new RangeError(`${count} bytes where ${bytes.length - at} are left`);
    at += count;
  };
  const element = (type: number, depth: number): void => {
    if (depth > maxDepth) throw new Error(`more than ${maxDepth} levels`);
    if (type === 3) skip(1);
    else if (type >= 4 && type <= 6) varint();
    else if (type === 7) skip(8);
    else if (type === 8) skip(varint());
    else if (type === 9) list(depth);
    else if (type === 12) struct(depth);
    else throw new Error(`type ${type}`);
  };
  const list = (depth: number): void => {
    const head = byte();
    const count = head >> 4 === 15 ? varint() : head >> 4;
    if (count > bytes.length - at) throw new RangeError(`a list of ${count} where ${bytes.length - at} bytes are left`);
    const type = head & 15;
    for (let i = 0; i < count; i++) element(type === 1 || type === 2 ? 3 : type, depth + 1);
  };
  const struct = (depth: number): void => {
    for (let head = byte(); (head & 15) !== 0; head = byte()) {
      if (head >> 4 === 0) varint();
      const type = head & 15;
      if (type > 2) element(type, depth + 1); // true and false are their types
    }
  };
  struct(0);
  return at;
}
