// Configurations that are nearly right.
import fc from 'fast-check';

/** Values that stand where others should: of other types, out of bounds, nearly right. */
const oddValue = fc.oneof(
  fc.anything({ withBigInt: true, withDate: true, withNullPrototype: true }),
  fc.double(),
  fc.constantFrom(0, -1, 1.5, 2 ** 31, 2 ** 53, 1e308, '', 'auto', null, undefined, [], {}),
);

/** Changes some fields of an object, at any depth. */
export function mutated(base: object, values: fc.Arbitrary<unknown> = oddValue): fc.Arbitrary<Record<string, unknown>> {
  const paths = pathsOf(base);
  const change = fc.tuple(
    fc.oneof(fc.constantFrom(...paths), fc.array(fc.string(), { minLength: 1, maxLength: 3 })),
    values,
    fc.boolean(),
  );
  return fc.array(change, { minLength: 1, maxLength: 4 }).map((changes) => {
    const copy = structuredClone(base) as Record<string, unknown>;
    for (const [path, value, removed] of changes) {
      const parent = path.slice(0, -1).reduce<unknown>((at, key) => (isObject(at) ? at[key] : undefined), copy);
      const key = path.at(-1) as string;
      if (!isObject(parent)) continue;
      if (removed) delete parent[key];
      else Object.defineProperty(parent, key, { value, writable: true, enumerable: true, configurable: true });
    }
    return copy;
  });
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

const pathsOf = (value: object): string[][] =>
  Object.entries(value).flatMap(([key, inner]) => [
    [key],
    ...(isObject(inner) ? pathsOf(inner).map((path) => [key, ...path]) : []),
  ]);
