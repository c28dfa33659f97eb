import { Ajv } from 'ajv';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { z } from 'zod';
import { configJsonSchema } from '../../src/cli/config-reference.js';
import { configFileSchema } from '../../src/cli/config-schema.js';
import { type PresetName, presets } from '../../src/cli/presets/presets.js';
import { resolveTrainConfig } from '../../src/train/config.js';
import { mutated } from '../train/mutated.js';

const schema = configJsonSchema();
const validate = new Ajv({ allErrors: true, strict: true, allowUnionTypes: true }).compile(schema);

/** A preset as a file would say it. */
function fileOf(name: PresetName): Record<string, unknown> {
  const { data, ...preset } = presets[name]();
  return { ...preset, data: { ...data, sources: data.sources.length > 0 ? data.sources : ['a.txt'] } };
}

/** Objects of a schema that name their fields, by path. */
function objectsOf(node: unknown, path: string[] = []): { path: string[]; properties: Record<string, Described> }[] {
  if (typeof node !== 'object' || node === null) return [];
  const { properties, anyOf = [], items } = node as Node;
  return [
    ...(properties ? [{ path, properties }] : []),
    ...Object.entries(properties ?? {}).flatMap(([name, inner]) => objectsOf(inner, [...path, name])),
    ...anyOf.flatMap((inner) => objectsOf(inner, path)),
    ...objectsOf(items, [...path, '0']),
  ];
}

interface Described {
  description?: string;
  additionalProperties?: unknown;
}

interface Node extends Described {
  properties?: Record<string, Described>;
  anyOf?: unknown[];
  items?: unknown;
}

describe('the schema of configuration files', () => {
  it('describes every field', () => {
    const objects = objectsOf(schema);
    const fields = objects.flatMap(({ path, properties }) =>
      Object.entries(properties).map(([name, { description }]) => ({ field: [...path, name].join('.'), description })),
    );
    expect(fields.length).toBeGreaterThan(40);
    expect(fields.map(({ field }) => field)).toEqual(
      expect.arrayContaining(['model.config', 'optimizer.lr', 'preset']),
    );
    for (const { field, description } of fields) expect(description, field).toMatch(/^[^\s].{10,}[.…]$/);
  });

  it('takes every preset, bare and resolved, and the least there is', () => {
    for (const name of Object.keys(presets) as PresetName[]) {
      for (const config of [fileOf(name), resolveTrainConfig({ ...fileOf(name), out: 'x' }), { preset: name }]) {
        expect(validate(config), JSON.stringify(validate.errors)).toBe(true);
      }
    }
    expect(validate({})).toBe(true);
    expect(validate({ $schema: './config.schema.json', name: 'a', data: { heldOut: 0.1 } })).toBe(true);
  });

  it('refuses a misspelt name wherever names are fixed', () => {
    const milestones = [{ from: 0, value: 0.1 }];
    const file = fileOf('test');
    const whole = resolveTrainConfig({
      ...file,
      out: 'x',
      data: { sources: [{ path: 'a' }] },
      model: { ...(file.model as object), ties: [{ match: 'a' }], lowRank: [{ match: 'a', rank: 1 }] },
      batchRamp: { from: file.batch, steps: 1 },
      activationCheckpointing: { every: 1 },
      loss: { mtpWeight: milestones, routerBiasSpeed: milestones },
      precision: { layers: [{ match: 'a', dtype: 'fp32' }] },
      optimizer: {
        schedule: { shape: 'step', milestones },
        ...{ groups: [{ match: 'a' }], betaSchedule: {}, adaptiveClip: {} },
      },
    });
    expect(validate(whole)).toBe(true);
    const places = objectsOf(schema).map(({ path }) => path);
    expect(places.length).toBeGreaterThan(6);
    for (const path of places) {
      const config = structuredClone(whole) as unknown as Record<string, unknown>;
      const object = path.reduce((at, key) => at[key] as Record<string, unknown>, config);
      object.mispelt = 1;
      expect(validate(config), path.join('.')).toBe(false);
    }
  });

  it('says what the program says of configurations changed at random', () => {
    const seen = { accepted: 0, refused: 0, onlyHere: 0 };
    const whole = resolveTrainConfig({ ...fileOf('test'), out: 'x' });
    const property = fc.property(mutated(whole, fc.jsonValue()), (config) => {
      const value: unknown = JSON.parse(JSON.stringify(config));
      const { error } = configFileSchema.safeParse(value);
      seen[error ? 'refused' : 'accepted']++;
      // A schema cannot say how fields depend on one another, nor how large numbers get before they blur.
      const isBeyondSchemas = error?.issues.every(isOfTheProgram) ?? false;
      if (isBeyondSchemas) seen.onlyHere++;
      else expect(validate(value), JSON.stringify([value, validate.errors, error?.issues])).toBe(!error);
    });
    fc.assert(property, { numRuns: 3000, seed: 1 });
    expect(Math.min(seen.accepted, seen.refused)).toBeGreaterThan(100);
    expect(seen.onlyHere).toBeLessThan(100);
  });
});

const isOfTheProgram = (issue: z.core.$ZodIssue): boolean =>
  issue.code === 'custom' || (issue.code === 'too_big' && issue.maximum === Number.MAX_SAFE_INTEGER);
