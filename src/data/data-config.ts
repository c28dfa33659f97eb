// The `data` section of a training configuration.
import { z } from 'zod';

/** Schema of the `data` section. Reference pages and the published JSON schema are made from it. */
export const dataSchema = z.strictObject({
  sources: z
    .array(z.string())
    .min(1)
    .describe('Files or directories of txt, jsonl and gz, or the named sources `sotu` and `synthetic`.'),
  textField: z.string().default('text').describe('Field of a jsonl line that holds the text.'),
  heldOut: z.number().min(0).lt(1).default(0.05).describe('Share of the documents kept for evaluation.'),
  tokenizer: z
    .string()
    .nullable()
    .default(null)
    .describe("A tokenizer.json or a directory with one; null: the model directory's, or one trained on the data."),
  cache: z.string().default('.hadal/data').describe('Where tokenized data is kept between runs.'),
});
