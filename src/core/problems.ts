// What is wrong with a value that a zod schema refuses, said field by field.
import type { z } from 'zod';
import { expectationOf, shown } from './expectation.js';
import { nearest } from './nearest.js';

/** One thing that is wrong. */
export interface Problem {
  /** Where, from the root; ends in the key itself where that is unknown. */
  readonly path: readonly string[];
  /** What, in a line: `field 'a.b' expected a number, got "x"`. */
  readonly text: string;
}

/**
 * Everything that is wrong with `value`, misspelt names first: a name that is missing because it was misspelt is not
 * told a second time.
 *
 * @param schema - the schema that refused
 * @param error - what it said
 */
export function problemsOf(schema: z.core.$ZodType, { issues }: z.core.$ZodError, value: unknown): Problem[] {
  const hints = new Set<string>();
  const unknown = issues.flatMap((issue) => {
    if (issue.code !== 'unrecognized_keys') return [];
    const path = issue.path.map(String);
    const names = schemasAt([schema], path).flatMap(fieldNamesOf);
    return issue.keys.map((key) => {
      const hint = nearest(key, names);
      if (hint !== null) hints.add(JSON.stringify([...path, hint]));
      return {
        path: [...path, key],
        text: `${fieldName([...path, key])}is unknown${hint ? `; did you mean '${hint}'?` : ''}`,
      };
    });
  });
  const wrong = issues.flatMap((issue): Problem[] => {
    if (issue.code === 'unrecognized_keys') return [];
    const path = issue.path.map(String);
    const got = valueAt(value, path);
    if (got === undefined && hints.has(JSON.stringify(path))) return [];
    const nested = issue.code === 'invalid_union' ? problemsOfUnion(schema, issue, value) : null;
    const hint =
      issue.code === 'invalid_value' && typeof got === 'string' ? nearest(got, issue.values.map(String)) : null;
    const text = `${fieldName(path)}expected ${expectationOf(issue)}, got ${shown(got)}${hint ? `; did you mean '${hint}'?` : ''}`;
    return nested ?? [{ path, text }];
  });
  return [...unknown, ...wrong];
}

const mostLines = 5;

/**
 * A message with a line for each of the first problems, and how many more there are.
 *
 * @param place - what stands in brackets before a problem: where the field at that path was set
 */
export function problemLines(problems: readonly Problem[], place: (path: readonly string[]) => string): string {
  const lines = problems.slice(0, mostLines).map(({ path, text }) => `[${place(path)}] ${text}`);
  const more = problems.length - lines.length;
  return [...lines, ...(more > 0 ? [`… and ${more} more`] : [])].join('\n');
}

/** What is at a path; undefined where there is nothing. */
const valueAt = (value: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);

/** Problems of the alternative that was most likely meant; null where none stands out. */
function problemsOfUnion(
  schema: z.core.$ZodType,
  { errors, path }: z.core.$ZodIssueInvalidUnion,
  value: unknown,
): Problem[] | null {
  const ranked = errors
    // Not of that kind at all, as a text is no object and a number no name.
    .filter((issues) => issues.every((issue) => issue.path.length > 0 || isOfKind(issue, valueAt(value, path))))
    .map((issues) => issues.map((issue) => ({ ...issue, path: [...path, ...issue.path] })))
    .map((issues) => problemsOf(schema, { issues } as z.core.$ZodError, value))
    .sort((a, b) => a.length - b.length);
  const [best, second] = ranked;
  return best && best.length !== second?.length ? best : null;
}

function isOfKind({ code }: z.core.$ZodIssue, found: unknown): boolean {
  return code !== 'invalid_type' && (code !== 'invalid_value' || typeof found === 'string');
}

function fieldName(path: readonly string[]): string {
  if (path.length === 0) return '';
  // A key is anyone's text, and a problem is one line.
  return `field '${path.join('.').replaceAll(/\p{Cc}/gu, (c) => JSON.stringify(c).slice(1, -1))}' `;
}

/** The schemas that may describe what is at a path: several where there are alternatives. */
function schemasAt(schemas: readonly z.core.$ZodType[], [key, ...rest]: readonly string[]): z.core.$ZodType[] {
  const open = schemas.flatMap(withoutWrappers);
  return key === undefined
    ? open
    : schemasAt(
        open.flatMap((schema) => inside(schema, key)),
        rest,
      );
}

/** The alternatives of a schema, without `default`, `optional`, `nullable` and the like around them. */
function withoutWrappers(schema: z.core.$ZodType): z.core.$ZodType[] {
  const { innerType, options } = (schema as z.core.$ZodTypes)._zod.def as {
    innerType?: z.core.$ZodType;
    options?: z.core.$ZodType[];
  };
  if (innerType) return withoutWrappers(innerType);
  return options ? options.flatMap(withoutWrappers) : [schema];
}

function inside(schema: z.core.$ZodType, key: string): z.core.$ZodType[] {
  const { shape, element, valueType } = (schema as z.core.$ZodTypes)._zod.def as {
    shape?: Record<string, z.core.$ZodType>;
    element?: z.core.$ZodType;
    valueType?: z.core.$ZodType;
  };
  const found = shape && Object.hasOwn(shape, key) ? shape[key] : (element ?? valueType);
  return found ? [found] : [];
}

function fieldNamesOf(schema: z.core.$ZodType): string[] {
  return Object.keys(((schema as z.core.$ZodTypes)._zod.def as { shape?: object }).shape ?? {});
}
