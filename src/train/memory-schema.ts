// The configuration's `memory`.
import { z } from 'zod';
import { parseBytes } from '../core/bytes.js';
import { countOrAuto } from '../core/schema.js';

/** Whether a budget is one, and not only a text. */
function isSize(given: number | string): boolean {
  try {
    return given === 'auto' || parseBytes(given, 'memory.budget') > 0;
  } catch {
    return false;
  }
}

const offloadSchema = z.strictObject({
  optimizer: z.boolean().default(false).describe('Whether moments lie in a file.'),
  parameters: z.boolean().default(false).describe('Whether weights lie in a file, read a layer ahead.'),
  directory: z
    .string()
    .nullable()
    .default(null)
    .describe('Where the file is, on a fast disk; it is gone when the run ends. Null: the run directory.'),
});

/** Schema of `memory`. */
export const memorySchema = z.strictObject({
  budget: z
    .union([z.number().positive(), z.string()], { error: 'bytes as a number, a size such as "12GiB", or "auto"' })
    .refine(isSize, { error: 'bytes as a number, a size such as "12GiB", or "auto"' })
    .default('auto')
    .describe('Bytes the process may take, as a number or such as `12GiB`; `auto`: what the machine has free.'),
  lossChunkRows: countOrAuto
    .default('auto')
    .describe(
      'Rows whose logits exist at a time; `auto`: as many as run fastest, fewer where only that fits. Other rows, another order of sums.',
    ),
  offload: offloadSchema.prefault({}).describe('State that lies in a memory-mapped file instead of in memory.'),
});
