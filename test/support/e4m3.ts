/** The E4M3 number nearest to x, ties to the even one; beyond ±448 that. */
export function toE4m3(x: number): number {
  const size = Math.min(448, Math.abs(x));
  const step = 2 ** (Math.max(-6, Math.floor(Math.log2(size))) - 3);
  const below = Math.floor(size / step);
  const rest = size / step - below;
  const isUp = rest > 0.5 || (rest === 0.5 && below % 2 === 1);
  return Math.sign(x) * (below + Number(isUp)) * step;
}
