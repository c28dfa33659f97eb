// From sources to token shards, with the tokenizer that the run uses.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { pathOf } from '../data/data-config.js';
import { prepareData } from '../data/prepare.js';
import { isPrepared, openPrepared, type PreparedData } from '../data/prepared.js';
import { resolveSources } from '../data/sources.js';
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.js';
import { saveTokenizer, trainTokenizer } from '../data/train-tokenizer.js';
import { withAtomicDirectory } from '../formats/atomic-file.js';
import { openModelSource } from '../session/model-source.js';
import type { TrainConfig } from './config.js';
import type { PrepareEvent } from './events.js';

/** Tokenized data and the tokenizer that made them. */
export interface PreparedRun {
  tokenizer: Tokenizer;
  data: PreparedData;
}

/** Refuses data that is not there, before anything is made. @throws HadalError as {@link resolveSources} */
export async function requireSources(config: TrainConfig): Promise<void> {
  if (preparedDirectory(config) === undefined) await resolveSources(config.data);
}

/**
 * Gets the tokenizer (given, the model's, or learnt from the data and kept) and tokenizes the sources, unless an earlier
 * run left both behind.
 */
export async function prepareRun(
  config: TrainConfig,
  vocabSize: number,
  options: { signal: AbortSignal; onEvent: (event: PrepareEvent) => void },
): Promise<PreparedRun> {
  const { sources, cache, tokenizer: _, ...how } = config.data;
  const prepared = preparedDirectory(config);
  const common = { ...how, sources, signal: options.signal };
  const tokenizer = await tokenizerOf(config, vocabSize, async (dir) => {
    const learnt = await trainTokenizer({
      ...common,
      vocabSize,
      onProgress: ({ done, total = 0 }) => options.onEvent({ type: 'prepare', phase: 'tokenizer', done, total }),
    });
    await withAtomicDirectory(dir, (temporary) => saveTokenizer(temporary, learnt));
  });
  if (tokenizer.vocabSize > vocabSize) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[train] expected a tokenizer of at most ${vocabSize} tokens (the model's vocab_size), got one of ${tokenizer.vocabSize}`,
    );
  }
  if (prepared !== undefined) return { tokenizer, data: openPreparedFor(tokenizer, prepared) };
  const data = await prepareData({
    ...common,
    tokenizer,
    cacheDir: cache,
    onProgress: ({ tokens }) => options.onEvent({ type: 'prepare', phase: 'data', done: tokens, total: 0 }),
  });
  return { tokenizer, data };
}

/** The directory that `hadal prepare` made, where the run's data is one. */
function preparedDirectory({ data: { sources } }: TrainConfig): string | undefined {
  const [only] = sources;
  return sources.length === 1 && only !== undefined && isPrepared(pathOf(only)) ? pathOf(only) : undefined;
}

function openPreparedFor({ hash }: Tokenizer, dir: string): PreparedData {
  const data = openPrepared(dir);
  if (data.tokenizerHash === hash) return data;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[train] expected the tokenizer that ${dir} was prepared with (${join(dir, 'tokenizer.json')}), got another one; leave data.tokenizer out, or prepare the data with the model's tokenizer`,
  );
}

async function tokenizerOf(
  config: TrainConfig,
  vocabSize: number,
  learn: (dir: string) => Promise<void>,
): Promise<Tokenizer> {
  if (config.data.tokenizer) return loadTokenizer(config.data.tokenizer);
  const own = 'directory' in config.model ? await (await openModelSource(config.model.directory)).tokenizer() : null;
  if (own) return own;
  const prepared = preparedDirectory(config);
  if (prepared !== undefined) return loadTokenizer(prepared);
  const dir = join(config.data.cache, `tokenizer-${await keyOf(config, vocabSize)}`);
  if (!existsSync(dir)) {
    await learn(dir).catch((error) => {
      if (!existsSync(dir)) throw error; // another process was first
    });
  }
  return loadTokenizer(dir);
}

/** What a learnt tokenizer depends on; files by name, size and time. */
async function keyOf({ data: { sources, textField, ...how } }: TrainConfig, vocabSize: number): Promise<string> {
  const items = await resolveSources({ sources, textField });
  return createHash('sha256')
    .update(JSON.stringify({ items, heldOut: how.heldOut, invalidUtf8: how.invalidUtf8, vocabSize }))
    .digest('hex')
    .slice(0, 16);
}
