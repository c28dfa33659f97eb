// What processes that train together must have in common, compared before they begin.
import type { Model } from '../models/model.js';
import type { TrainConfig } from './config.js';
import type { PreparedRun } from './prepare.js';
import type { Together } from './together.js';

/** Fields and their values, as text. */
export type Claims = Record<string, string>;

/** Of a machine, not of the run, or compared by what they lead to. */
const ownFields = [
  ...['out', 'resume', 'device', 'threads', 'pinThreads', 'memory.budget'],
  ...['model', 'data.sources', 'data.cache', 'data.tokenizer'],
];

/** What a configuration, its model and the program say. @param dtype - what `auto` came to */
export function configClaims(config: TrainConfig, model: Model, dtype: string, version: string): Claims {
  const isOwn = (field: string) => ownFields.some((own) => field === own || field.startsWith(`${own}.`));
  const fields = Object.entries({ ...claimsOf(config, ''), dtype }).filter(([field]) => !isOwn(field));
  return { 'hadal version': version, ...Object.fromEntries(fields), ...claimsOf(model.toHuggingFace(), 'model.') };
}

/** What the data are. */
export function dataClaims({ data: { train, heldOut, tokenizerHash } }: PreparedRun): Claims {
  const amount = (part: typeof heldOut) => (part ? `${part.documents} documents, ${part.tokens} tokens` : 'none');
  return {
    tokenizer: tokenizerHash,
    'training data': amount(train),
    'weights of its sources': train.sources.map(({ weight }) => weight ?? 'none').join(', '),
    'held-out data': amount(heldOut),
  };
}

/** The leaves of an object by their paths. */
function claimsOf(value: unknown, prefix: string): Claims {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject) return { [prefix.slice(0, -1)]: JSON.stringify(value) ?? 'nothing' };
  return Object.assign({}, ...Object.entries(value).map(([key, inner]) => claimsOf(inner, `${prefix}${key}.`)));
}

/**
 * Compares what processes claim. All of them throw the same error, or none.
 *
 * @throws HadalError HADAL_ERR_CONFIG naming the fields that differ, with the ranks and their values; HADAL_ERR_COMM
 */
export async function requireAgreement(together: Together, name: string, claims: Claims): Promise<void> {
  const all = await together.gather(name, claims);
  const fields = [...new Set(all.flatMap((each) => Object.keys(each)))];
  const differing = fields.flatMap((field) => {
    const ranks = ranksByValue(all.map((each) => each[field] ?? 'nothing'));
    return ranks.size > 1 ? [`${field}: ${listed(ranks)}`] : [];
  });
  if (differing.length === 0) return;
  const shown = [...differing.slice(0, 5), ...(differing.length > 5 ? [`and ${differing.length - 5} more`] : [])];
  throw together.common(
    'HADAL_ERR_CONFIG',
    `[train] expected the same of all ${all.length} processes, got ${shown.join('; ')}; start them all with the same version and configuration`,
  );
}

/** What users should know where machines differ: results are right, but other machines make other bits. */
export async function differingMachines(together: Together, machine: string): Promise<string[]> {
  const ranks = ranksByValue(await together.gather('machine', machine));
  return ranks.size > 1
    ? [`processes do not compute alike (${listed(ranks)}): a run whose ranks are dealt otherwise is not bit-equal`]
    : [];
}

function ranksByValue(values: readonly string[]): Map<string, number[]> {
  const ranks = new Map<string, number[]>();
  for (const [rank, value] of values.entries()) ranks.set(value, [...(ranks.get(value) ?? []), rank]);
  return ranks;
}

const listed = (ranksOf: ReadonlyMap<string, readonly number[]>): string =>
  [...ranksOf].map(([value, ranks]) => `${value} (${ranksText(ranks)})`).join(', ');

/** "rank 2", "ranks 0, 3". */
export const ranksText = (ranks: readonly number[]): string =>
  `rank${ranks.length === 1 ? '' : 's'} ${ranks.join(', ')}`;
