// The `data` section of a training configuration.
import { z } from 'zod';

const textField = z
  .string()
  .describe('Field of a jsonl line, or column of a csv, tsv or parquet file, that holds the text.');

const sourceSchema = z.union(
  [
    z.string(),
    z.strictObject({
      path: z.string().describe('A file, folder, glob or named source.'),
      weight: z
        .number()
        .positive()
        .max(1e9)
        .optional()
        .describe("The source's share of the training rows, relative to the others' weights."),
      textField: textField.optional(),
    }),
  ],
  { error: 'a path or { path, weight, textField }' },
);

/** Schema of the `data` section. Reference pages and the published JSON schema are made from it. */
export const dataSchema = z.strictObject({
  sources: z
    .array(sourceSchema)
    .min(1)
    .refine((sources) => new Set(sources.map((source) => weightOf(source) === undefined)).size < 2, {
      error: 'a weight for every source or for none',
    })
    .describe(
      'What to train on: files, folders and globs of txt, md, jsonl, csv, tsv (each also .gz) and parquet; one folder that `hadal prepare` made; or the named sources `sotu` and `synthetic`. A source may be { path, weight, textField }.',
    ),
  textField: textField.default('text'),
  heldOut: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.05)
    .describe('Share of the documents kept for evaluation. Prepared data keeps the share it was made with.'),
  invalidUtf8: z
    .enum(['error', 'replace'])
    .default('error')
    .describe('What becomes of bytes that are not UTF-8: an error that names the line, or U+FFFD in their place.'),
  specialTokensAsText: z
    .boolean()
    .default(true)
    .describe(
      'Whether names of special tokens within a document, such as <|endoftext|>, are plain text. False: they become the tokens, as texts in a chat format need.',
    ),
  tokenizer: z
    .string()
    .nullable()
    .default(null)
    .describe(
      "A tokenizer.json or a directory with one; null: that of prepared data, the model directory's, or one trained on the data.",
    ),
  cache: z.string().default('.hadal/data').describe('Where tokenized data is kept between runs.'),
});

/** Where text comes from: a path or a name, or more said about it. */
export type DataSource = z.output<typeof sourceSchema>;

/** Path or name of a source. */
export const pathOf = (source: DataSource): string => (typeof source === 'string' ? source : source.path);

/** Weight of a source, where it has one. */
export const weightOf = (source: DataSource): number | undefined =>
  typeof source === 'string' ? undefined : source.weight;
