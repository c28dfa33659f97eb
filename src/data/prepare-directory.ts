// `prepare`: token shards made once, in a directory that training takes.
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { problemLines, problemsOf } from '../core/problems.js';
import { dataSchema } from './data-config.js';
import { prepareInto } from './prepare.js';
import { openPrepared, type PreparedPart } from './prepared.js';
import { loadTokenizer } from './tokenizer.js';

const { sources, textField, heldOut, invalidUtf8, specialTokensAsText } = dataSchema.shape;
const count = z.number().int().positive();

const optionsSchema = z.strictObject({
  sources,
  tokenizer: z.string().describe('A tokenizer.json or a directory with one.'),
  out: z.string().describe('Directory to be made. One that an earlier call has begun is gone on with.'),
  textField,
  heldOut,
  invalidUtf8,
  specialTokensAsText,
  shardTokens: count
    .max(2 ** 31 - 1)
    .default(2 ** 26)
    .describe('Tokens after which a shard is closed; a call that was killed goes on from its last shard.'),
  threads: count.nullable().default(null).describe("Worker threads; null: the machine's processors."),
});

/** What {@link prepare} takes; defaults may be left out. Fields are as in the `data` section of a training configuration. */
export type PrepareOptions = z.input<typeof optionsSchema>;

/** One part of prepared data. */
export interface PartSummary {
  documents: number;
  tokens: number;
  /** UTF-8 bytes of the text behind the tokens. */
  textBytes: number;
}

/** What {@link prepare} has made. */
export interface PrepareSummary {
  /** The directory, to be given to training as its only source. */
  out: string;
  /** Whether an earlier call had made it already. */
  reused: boolean;
  train: PartSummary;
  /** null where nothing is held out: a share of 0, or a single document. */
  heldOut: PartSummary | null;
  /** Characters that stand for bytes that were not UTF-8. */
  invalidUtf8: number;
  /** Documents of each source, as they were given. */
  sources: { path: string; weight: number | null; train: number; heldOut: number }[];
}

/** How {@link prepare} runs. */
export interface PrepareHooks {
  /** Stops; a later call goes on. */
  signal?: AbortSignal;
  /** Told now and then how much is done. */
  onProgress?: (progress: { documents: number; tokens: number }) => void;
}

/**
 * Tokenizes texts in worker threads into token shards that training takes again and again: give `out` to `train` as the
 * only source. A call that was interrupted, even killed, is gone on with by the next one of the same options; the
 * result is the same, byte for byte.
 *
 * @throws HadalError HADAL_ERR_CONFIG for options that cannot be, or where `out` holds anything else; HADAL_ERR_DATA for
 * text that cannot be read; HADAL_ERR_FORMAT for a tokenizer that is none; HADAL_ERR_IO; HADAL_ERR_LOCKED while another
 * process prepares `out`; HADAL_ERR_ABORTED
 */
export async function prepare(options: PrepareOptions, hooks: PrepareHooks = {}): Promise<PrepareSummary> {
  const parsed = optionsSchema.safeParse(options);
  if (!parsed.success) {
    const problems = problemsOf(optionsSchema, parsed.error, options);
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      problemLines(problems, () => 'prepare'),
    );
  }
  const { out, tokenizer, threads, ...how } = parsed.data;
  const { reused } = await prepareInto(out, {
    ...how,
    ...hooks,
    ...(threads === null ? {} : { threads }),
    tokenizer: await loadTokenizer(tokenizer),
  });
  const { train, heldOut, invalidUtf8, manifest } = openPrepared(out);
  return {
    out,
    reused,
    train: summaryOf(train),
    heldOut: heldOut ? summaryOf(heldOut) : null,
    invalidUtf8,
    sources: manifest.sources.map((source) => ({ ...source, weight: source.weight ?? null })),
  };
}

function summaryOf({ documents, tokens, textBytes }: PreparedPart): PartSummary {
  return { documents, tokens, textBytes };
}
