// What of a model's weights is shared or stored as products: its fields in a training configuration and in config.json.
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { count } from '../core/schema.js';
import { checkFields, configError, snakeCase } from './hugging-face-config.js';

const match = z.string().min(1);
const share = z.number().positive().max(1);

/** Fields of a configuration. */
export const economyFields = {
  ties: z
    .array(
      z.strictObject({
        match: match.describe(
          'Names of parameters of layers, `*` and `{a,b}` as in a shell: `model.layers.{1,3}.self_attn.*`. Those whose names differ by the number of the layer alone are one parameter.',
        ),
        neighbours: count
          .min(2)
          .optional()
          .describe('So many layers share, then the next ones do: 2 for pairs. All that match unless given.'),
        share: share
          .optional()
          .describe(
            'Share of the rows of each tensor that is common; every layer has the other rows for itself. All unless given.',
          ),
      }),
    )
    .default([])
    .describe('Weights that layers share.'),
  lowRank: z
    .array(
      z
        .strictObject({
          match: match.describe('Names of matrices, as in `ties`: `model.layers.*.mlp.down_proj.weight`.'),
          rank: count.optional().describe('Columns of the left factor, rows of the right one.'),
          share: share
            .lt(1)
            .optional()
            .describe('Instead of `rank`: how many numbers the factors have, as a share of those of the matrix.'),
        })
        .refine(({ rank, share }) => (rank === undefined) !== (share === undefined), {
          error: 'either rank or share',
        }),
    )
    .default([])
    .describe('Matrices that are stored as products of two of low rank.'),
};

const schema = z.strictObject(economyFields);

/** Ties and factorised weights of a model. */
export type Economy = z.output<typeof schema>;

/** Reads the field `hadal` of config.json. @throws HadalError HADAL_ERR_CONFIG naming the field at fault */
export function economyFromHuggingFace(json: unknown, source: string): Economy {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw configError(source, 'hadal', 'an object', json);
  }
  const { low_rank: lowRank, ...rest } = json as Record<string, unknown>;
  return checkFields(`${source}: hadal`, { ...rest, lowRank }, schema);
}

/** The field `hadal` of config.json; transformers leaves it alone. */
export function economyToHuggingFace({ ties, lowRank }: Economy): Record<string, unknown> {
  return snakeCase({ ...(ties.length > 0 && { ties }), ...(lowRank.length > 0 && { lowRank }) });
}

/** The rules of both, each once. */
export function joinEconomies(first: Economy, second: Economy): Economy {
  const join = <T>(a: readonly T[], b: readonly T[]) => [
    ...a,
    ...b.filter((rule) => !a.some((known) => isDeepStrictEqual(known, rule))),
  ];
  return { ties: join(first.ties, second.ties), lowRank: join(first.lowRank, second.lowRank) };
}
