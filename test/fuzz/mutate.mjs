// Damage, drawn from a seed: to bytes, and to JSON.

/** Uniform numbers in [0, 1). Mulberry32 by T. Ettinger. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const pick = (next, list) => list[Math.floor(next() * list.length)];

const numbers = [
  0n,
  1n,
  7n,
  8n,
  0x7fn,
  0xffn,
  0x7fff_ffffn,
  0xffff_ffffn,
  0x7fff_ffff_ffff_ffffn,
  0xffff_ffff_ffff_ffffn,
];

/** One to four changes; most of them near an end, where headers and footers are. */
export function mutateBytes(next, original) {
  let bytes = Uint8Array.from(original);
  const place = () => {
    const near = Math.min(bytes.length, 4096);
    const offset = Math.floor(next() * (next() < 0.6 ? near : bytes.length));
    return next() < 0.3 ? Math.max(0, bytes.length - 1 - offset) : offset;
  };
  for (let changes = Math.floor(next() * 4); changes >= 0; changes--) {
    const at = place();
    const length = Math.floor(next() * 64);
    switch (Math.floor(next() * 6)) {
      case 0:
        bytes[at] = Math.floor(next() * 256);
        break;
      case 1:
        bytes[at] ^= 1 << Math.floor(next() * 8);
        break;
      case 2: {
        const width = pick(next, [1, 2, 4, 8]);
        const value = next() < 0.5 ? pick(next, numbers) : BigInt(Math.floor(next() * 2 * bytes.length));
        for (let i = 0; i < width && at + i < bytes.length; i++)
          bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
        break;
      }
      case 3:
        bytes = bytes.slice(0, at);
        break;
      case 4:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + length)]);
        break;
      default:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(Math.max(0, at - length))]);
    }
  }
  return bytes;
}

const values = [
  null,
  true,
  false,
  0,
  -1,
  1,
  0.5,
  64,
  2 ** 31,
  2 ** 53,
  1e308,
  '',
  'a',
  '\0',
  '../../etc/passwd',
  '/etc/passwd',
  [],
  {},
  [[]],
];

/** One to three places of a JSON value replaced, removed, or filled with another part of it. */
export function mutateJson(next, original) {
  const json = structuredClone(original);
  for (let changes = Math.floor(next() * 3); changes >= 0; changes--) {
    const places = placesOf(json);
    if (places.length === 0) return json;
    const [holder, key] = pick(next, places);
    const isList = Array.isArray(holder);
    const kind = next();
    if (kind < 0.2) isList ? holder.splice(key, 1) : delete holder[key];
    else if (kind < 0.3 && !isList)
      holder[pick(next, ['__proto__', 'constructor', 'x'])] = structuredClone(pick(next, values));
    else if (kind < 0.8) holder[key] = structuredClone(pick(next, values));
    else {
      const [from, name] = pick(next, places);
      holder[key] = structuredClone(from[name]);
    }
  }
  return json;
}

/** Where values stand: [object or array, key]; of long lists only a part. */
function placesOf(value, places = []) {
  if (typeof value !== 'object' || value === null) return places;
  for (const key of Object.keys(value).slice(0, 200)) {
    places.push([value, key]);
    placesOf(value[key], places);
  }
  return places;
}
