// Families of kernels and their cases, found by their files.
import { readdirSync, readFileSync } from 'node:fs';
import type { BenchCase } from './bench-case.js';

export interface Family {
  name: string;
  /** That its contract declares. */
  kernels: string[];
  cases: readonly BenchCase[];
}

const at = (path: string) => new URL(`../../${path}`, import.meta.url);
const ending = '.bench.ts';

/** @param only - part of the names of the families or kernels that are wanted; unless given, all */
export async function loadFamilies(only = ''): Promise<Family[]> {
  const names = readdirSync(at('bench/ops')).flatMap((file) =>
    file.endsWith(ending) ? [file.slice(0, -ending.length)] : [],
  );
  const families: Family[] = [];
  for (const name of names.sort()) {
    const kernels = kernelsOf(name);
    if (![name, ...kernels].some((text) => text.includes(only))) continue;
    const { cases } = (await import(at(`bench/ops/${name}${ending}`).href)) as { cases: readonly BenchCase[] };
    families.push({ name, kernels, cases });
  }
  return families;
}

/** Kernels that a family's contract declares. */
function kernelsOf(family: string): string[] {
  const contract = readFileSync(at(`native/ops/${family}.h`), 'utf8');
  return [...contract.matchAll(/HADAL_CONTRACT\(\s*\w+,\s*"([\w-]+)"/g)].map((match) => match[1] as string);
}
