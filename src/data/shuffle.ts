/**
 * Generator sfc32 (Chris Doty-Humphrey, PractRand): 128 bits of state, passes the usual test batteries.
 *
 * @returns function giving the next uint32
 */
export function randomUint32(...seeds: readonly number[]): () => number {
  let a = 0x9e3779b9;
  let b = 0x243f6a88;
  let c = 0xb7e15162;
  let counter = 1;
  const next = (): number => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  };
  for (const seed of seeds) {
    a ^= seed | 0;
    b ^= Math.floor(seed / 2 ** 32) | 0; // seeds go up to 2⁵³
    for (let i = 0; i < 12; i++) next();
  }
  return next;
}

/** 0…count-1 in an order fixed by the seeds (Fisher–Yates). */
export function shuffledOrder(count: number, ...seeds: readonly number[]): Uint32Array {
  const next = randomUint32(...seeds);
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor((next() / 2 ** 32) * (i + 1));
    const swapped = order[i] as number;
    order[i] = order[j] as number;
    order[j] = swapped;
  }
  return order;
}
