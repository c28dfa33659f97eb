// What all families share in reading and writing config.json: field names, unknown fields, rotary settings.
import type { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { expectationOf, shown } from '../core/expectation.js';
import { nearest } from '../core/nearest.js';
import type { RopeScaling, YarnScaling } from '../nn/rope-scaling.js';

/** Keys that configs of any family carry, also from other tools, and that say nothing about the computation here. */
const commonKeys = new Set(
  `architectures auto_map model_type torch_dtype dtype transformers_version use_cache pad_token_id _name_or_path
   _attn_implementation _experts_implementation id2label label2id problem_type chunk_size_feed_forward is_encoder_decoder
   output_attentions output_hidden_states return_dict _num_labels transformers.js_config unsloth_version unsloth_fixed`.split(
    /\s+/,
  ),
);

const toSnake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Field names as config.json spells them. */
export function snakeCase(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).map(([name, value]) => [toSnake(name), value]));
}

const camelCase = (fields: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value]),
  );

/** Fields that transformers refuses as whole numbers, which is how JavaScript writes 1.0. */
const floatField =
  /("(?:initializer_range|rms_norm_eps|layer_norm_epsilon|attention_dropout|\w+_pdrop|rope_theta|(?:\w+_)?factor|beta_\w+|mscale\w*)": \d+)(?=,?$)/gm;

/** The text of config.json. */
export function configText(config: Readonly<Record<string, unknown>>): string {
  return `${JSON.stringify(config, null, 2).replace(floatField, '$1.0')}\n`;
}

/** An error about one field. */
export function configError(source: string, field: string, expected: string, got: unknown): HadalError {
  return new HadalError('HADAL_ERR_CONFIG', `[${source}] field '${field}' expected ${expected}, got ${shown(got)}`);
}

/** Checks fields in camel case. @throws HadalError HADAL_ERR_CONFIG naming the first field at fault */
export function checkFields<S extends z.ZodType>(source: string, fields: unknown, schema: S): z.output<S> {
  const parsed = schema.safeParse(fields);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const path = issue?.path.map(String) ?? [];
  const got = path.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], fields);
  throw configError(source, toSnake(path.join('.')), issue ? expectationOf(issue) : 'a value that fits', got);
}

/**
 * Reads config.json by a schema in camel case.
 *
 * @param options.derived - fields that are not simply a key of the same name
 * @param options.otherKeys - further keys that may stand there
 * @param options.onlyValues - keys that must have one value where they stand
 * @throws HadalError HADAL_ERR_CONFIG for a field that is unknown, missing or impossible
 */
export function parseConfig<S extends z.ZodObject>(
  source: string,
  json: Readonly<Record<string, unknown>>,
  schema: S,
  options: { derived: Record<string, unknown>; otherKeys: ReadonlySet<string>; onlyValues: Record<string, unknown> },
): z.output<S> {
  const names = new Map(Object.keys(schema.shape).map((name) => [toSnake(name), name]));
  for (const [key, value] of Object.entries(json)) {
    if (!names.has(key) && !options.otherKeys.has(key) && !commonKeys.has(key)) {
      const hint = nearest(key, [...names.keys(), ...options.otherKeys]);
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[${source}] field '${key}' is unknown${hint ? `; did you mean '${hint}'?` : ''}`,
      );
    }
    const only = options.onlyValues[key];
    if (only !== undefined && value !== only) throw configError(source, key, JSON.stringify(only), value);
  }
  const fields = Object.fromEntries(
    [...names].filter(([key]) => json[key] !== undefined).map(([key, name]) => [name, json[key]]),
  );
  return checkFields(source, { ...fields, ...options.derived }, schema);
}

/** Keys that a kind of scaling has: numbers above 0 that must be there, numbers that may, switches that may. */
interface RopeKeys {
  numbers: readonly string[];
  optional?: readonly string[];
  switches?: readonly string[];
}

const noRopeKeys: RopeKeys = { numbers: [] };
const ropeKeys: Record<RopeScaling['type'], RopeKeys> = {
  linear: { numbers: ['factor'] },
  dynamic: { numbers: ['factor'] },
  llama3: { numbers: ['factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'] },
  yarn: {
    numbers: ['factor', 'original_max_position_embeddings'],
    optional: ['beta_fast', 'beta_slow', 'mscale', 'mscale_all_dim', 'attention_factor'],
    switches: ['truncate'],
  },
};

/** Keys beside those of the kind; the whole head must turn, and whether a model was trained with the scaling is no matter. */
const commonRopeKeys = ['type', 'rope_type', 'rope_theta', 'partial_rotary_factor', 'finetuned'];

/**
 * `rope_theta` and the scaling of the given kinds from `rope_scaling` (transformers 4) or `rope_parameters` (5).
 *
 * @throws HadalError HADAL_ERR_CONFIG naming the field
 */
export function ropeScalingFromHuggingFace<K extends RopeScaling['type']>(
  json: Readonly<Record<string, unknown>>,
  source: string,
  kinds: readonly K[],
): { ropeTheta: unknown; scaling: Extract<RopeScaling, { type: K }> | null } {
  const field = json.rope_parameters ? 'rope_parameters' : 'rope_scaling';
  const rope = (json[field] ?? {}) as Record<string, unknown>;
  if (typeof rope !== 'object' || Array.isArray(rope)) throw configError(source, field, 'an object', rope);
  const ropeTheta = rope.rope_theta ?? json.rope_theta;
  const given = rope.rope_type ?? rope.type ?? 'default';
  const type = kinds.find((kind) => kind === given);
  if (!type && given !== 'default') {
    const known = ['default', ...kinds].map((kind) => `'${kind}'`).join(', ');
    throw configError(source, `${field}.rope_type`, known.replace(/, (?=[^,]*$)/, ' or '), given);
  }
  const { numbers, optional = [], switches = [] } = type ? ropeKeys[type] : noRopeKeys;
  const fields: Record<string, unknown> = {};
  for (const key of [...numbers, ...optional]) {
    const value = rope[key] ?? undefined;
    if (value === undefined && !numbers.includes(key)) continue;
    if (typeof value !== 'number' || !(value > 0))
      throw configError(source, `${field}.${key}`, 'a number above 0', value);
    fields[key] = value;
  }
  for (const key of switches) {
    if (rope[key] === undefined) continue;
    if (typeof rope[key] !== 'boolean') throw configError(source, `${field}.${key}`, 'true or false', rope[key]);
    fields[key] = rope[key];
  }
  const unread = Object.keys(rope).find(
    (key) => !commonRopeKeys.includes(key) && rope[key] !== null && !Object.hasOwn(fields, key),
  );
  if (unread !== undefined) {
    const of = type ? ` for rope_type '${type}'` : '';
    throw new HadalError('HADAL_ERR_CONFIG', `[${source}] field '${field}.${unread}' is unknown${of}`);
  }
  if ((rope.partial_rotary_factor ?? 1) !== 1)
    throw configError(source, `${field}.partial_rotary_factor`, '1', rope.partial_rotary_factor);
  const scaling = type ? ({ type, ...camelCase(fields) } as unknown as Extract<RopeScaling, { type: K }>) : null;
  return { ropeTheta, scaling };
}

/** {@link ropeScalingFromHuggingFace} of a family that knows YaRN alone. */
export function ropeFromHuggingFace(
  json: Readonly<Record<string, unknown>>,
  source: string,
): { ropeTheta: unknown; yarn: YarnScaling | null } {
  const { ropeTheta, scaling } = ropeScalingFromHuggingFace(json, source, ['yarn']);
  return { ropeTheta, yarn: scaling };
}

/** `rope_theta` and `rope_scaling` as the published configs have them; every version of transformers reads these. */
export function ropeToHuggingFace(ropeTheta: number, scaling: RopeScaling | null): Record<string, unknown> {
  return { rope_theta: ropeTheta, ...(scaling ? { rope_scaling: snakeCase({ ...scaling }) } : {}) };
}
