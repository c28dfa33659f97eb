// Numbers as people read them.

/** `950`, `1.2 k`, `7.24 M`, `671.03 B`: three or more digits, with the unit of the thousands. */
export function formatCount(value: number): string {
  return scaled(value, 1000, ['', ' k', ' M', ' B', ' T']);
}

/** `34.06 M`, `281.2 G`: of operations, with the prefixes of FLOPs. */
export function formatFlops(value: number): string {
  return scaled(value, 1000, ['', ' k', ' M', ' G', ' T', ' P', ' E']);
}

/** `512 B`, `1.5 KiB`, `2.34 GiB`. */
export function formatBytes(bytes: number): string {
  return scaled(bytes, 1024, [' B', ' KiB', ' MiB', ' GiB', ' TiB', ' PiB']);
}

function scaled(value: number, base: number, units: readonly string[]): string {
  let rest = value;
  let unit = 0;
  while (Math.abs(rest) >= base && unit < units.length - 1) {
    rest /= base;
    unit++;
  }
  const digits = unit === 0 ? (Number.isInteger(rest) ? 0 : 1) : Math.abs(rest) < 100 ? 2 : 1;
  return `${rest.toFixed(digits)}${units[unit]}`;
}

/** `671,026,419,200`. */
export function formatInteger(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** `0:07`, `2:31`, `1:02:03`. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const two = (n: number): string => String(n).padStart(2, '0');
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
