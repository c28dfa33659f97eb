import { readFileSync } from 'node:fs';

/** A file in which the kernel tells something, '' where there is none. */
export function systemText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
