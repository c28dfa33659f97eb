// Sizes that memory decided when a run began.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { count } from '../core/schema.js';
import type { TrainConfig } from './config.js';

const decided = count.optional().catch(undefined);

const earlierSchema = z.object({
  batch: decided,
  gradAccumulationSteps: decided,
  memory: z.object({ lossChunkRows: decided }).catch({ lossChunkRows: undefined }),
});

/**
 * A configuration whose open sizes are those that its run was begun with: with others it would not go on bit for bit, and not
 * with as many rows. Nothing is changed where they do not fit what is asked for now.
 *
 * @param run - directory of a run that goes on
 */
export async function withEarlierSizes(config: TrainConfig, run: string): Promise<TrainConfig> {
  const text = await readFile(join(run, 'config.json'), 'utf8').catch(() => 'null');
  const earlier = earlierSchema.safeParse(jsonOf(text)).data;
  if (!earlier) return config;
  const { memory } = config;
  let { batch, gradAccumulationSteps: parts } = config;
  if (batch === 'auto' && earlier.batch && (parts === 'auto' || earlier.batch % parts === 0)) batch = earlier.batch;
  const divides = batch !== 'auto' && batch % (earlier.gradAccumulationSteps ?? Number.NaN) === 0;
  if (parts === 'auto' && earlier.gradAccumulationSteps && divides) parts = earlier.gradAccumulationSteps;
  const lossChunkRows = memory.lossChunkRows === 'auto' ? earlier.memory.lossChunkRows : undefined;
  return {
    ...config,
    batch,
    gradAccumulationSteps: parts,
    memory: { ...memory, lossChunkRows: lossChunkRows ?? memory.lossChunkRows },
  };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
