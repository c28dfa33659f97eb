import { HadalError } from './errors.js';

const exponents = { '': 0, k: 1, m: 2, g: 3, t: 4 };

/**
 * Bytes of `1024`, `512MiB`, `1.5 GB`: KiB to TiB count by 1024, KB to TB by 1000, in any case.
 *
 * @param what - what the message names: a field, a flag
 * @throws HadalError HADAL_ERR_CONFIG for what is no number of bytes above 0
 */
export function parseBytes(given: number | string, what: string): number {
  const [, digits, prefix = '', binary] =
    /^\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:([kmgt]?)(i?)b)?\s*$/i.exec(String(given)) ?? [];
  const unit = exponents[prefix.toLowerCase() as keyof typeof exponents];
  const bytes = Math.floor(Number(digits) * (binary ? 1024 : 1000) ** unit);
  if (!(bytes >= 1) || !Number.isSafeInteger(bytes) || (binary && unit === 0)) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `${what} expected a number of bytes, or one with a unit such as '512MiB', '12GiB' or '16GB', got '${given}'`,
    );
  }
  return bytes;
}
