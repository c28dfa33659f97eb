import { createHash } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { throwIfAborted } from '../core/abort.js';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { workerUrl } from '../core/worker-url.js';
import { withAtomicDirectory, writeFileAtomic } from '../formats/atomic-file.js';
import { withFileErrors } from '../formats/file-error.js';
import { TokenShards, TokenShardWriter } from '../formats/token-shards.js';
import { groupDocuments, mapInOrder } from './parallel.js';
import { newSourceStats, readDocuments, resolveSources, type SourceOptions, splitPartOf } from './sources.js';
import type { TokenizedGroup, TokenizeWorkerData } from './tokenize-worker.js';
import type { Tokenizer } from './tokenizer.js';
import { WorkerPool } from './worker-pool.js';

/** What to tokenize, how, and where to keep the result. */
export interface PrepareOptions extends SourceOptions {
  readonly tokenizer: Tokenizer;
  /** Directory of prepared data; each preparation gets a folder in it, named by what it was made from. */
  readonly cacheDir: string;
  /** Share of the documents kept out of training; 0.05 unless given. */
  readonly heldOut?: number;
  /** Start each document with bos; true unless given, where the tokenizer has one. */
  readonly addBos?: boolean;
  /** End each document with eos; true unless given, where the tokenizer has one. */
  readonly addEos?: boolean;
  /** Worker threads; as many as the machine offers unless given. The result does not depend on it. */
  readonly threads?: number;
  readonly onProgress?: (progress: { documents: number; tokens: number }) => void;
}

/** One part of the data. */
export interface PreparedPart {
  /** Directory of its token shards. */
  readonly dir: string;
  readonly documents: number;
  readonly tokens: number;
  /** UTF-8 bytes of the text behind the tokens. */
  readonly textBytes: number;
}

/** Token shards ready for a loader. */
export interface PreparedData {
  readonly train: PreparedPart;
  /** Undefined where nothing is held out: a share of 0, or a single document. */
  readonly heldOut: PreparedPart | undefined;
  /** Characters that stood for bytes that were not UTF-8. */
  readonly invalidUtf8: number;
  /** Whether an earlier preparation was taken. */
  readonly reused: boolean;
}

/**
 * Tokenizes sources into token shards, or takes those that an earlier call made from the same files, tokenizer and
 * options. What is interrupted leaves nothing behind that could be taken for whole.
 *
 * @throws HadalError HADAL_ERR_DATA, HADAL_ERR_IO, HADAL_ERR_ABORTED
 */
export async function prepareData(options: PrepareOptions): Promise<PreparedData> {
  throwIfAborted(options.signal);
  const dir = join(resolve(options.cacheDir), await cacheKey(options));
  const earlier = await openPrepared(dir);
  if (earlier !== undefined) return { ...earlier, reused: true };
  // What is there is ours alone, and damaged.
  await withFileErrors(`write ${dir}`, () => rm(dir, { recursive: true, force: true }));
  try {
    await withAtomicDirectory(dir, (temporary) => fill(temporary, options));
  } catch (error) {
    // Another process may have finished the same work first.
    const others = await openPrepared(dir);
    if (others === undefined) throw error;
    return { ...others, reused: true };
  }
  const made = await openPrepared(dir);
  if (made === undefined)
    throw new HadalError('HADAL_ERR_IO', `[data] expected prepared data in ${dir}, got none; is it being removed?`);
  return { ...made, reused: false };
}

const formatVersion = 1;

async function cacheKey(options: PrepareOptions): Promise<string> {
  const { tokenizer, heldOut, addBos, addEos, textField } = withDefaults(options);
  const items = await resolveSources(options);
  const files = items.map(({ path, bytes, modifiedMs, kind }) => [
    kind === 'synthetic' ? path : resolve(path),
    bytes,
    modifiedMs,
  ]);
  const ends = [addBos ? tokenizer.bosId : undefined, addEos ? tokenizer.eosId : undefined];
  const key = [formatVersion, files, tokenizer.hash, ends, heldOut, textField];
  return createHash('sha256').update(JSON.stringify(key)).digest('hex').slice(0, 16);
}

function withDefaults(
  options: PrepareOptions,
): Required<Pick<PrepareOptions, 'heldOut' | 'addBos' | 'addEos' | 'textField'>> & PrepareOptions {
  const { heldOut = 0.05, addBos = true, addEos = true, textField = 'text' } = options;
  if (heldOut >= 0 && heldOut <= 0.5) return { ...options, heldOut, addBos, addEos, textField };
  throw new HadalError('HADAL_ERR_CONFIG', `[data] expected a heldOut share from 0 to 0.5, got ${heldOut}`);
}

const summaryName = 'prepared.json';
const summarySchema = z.object({ invalidUtf8: z.number() });

/** The prepared data in `dir`, or undefined where there is none that is whole. */
async function openPrepared(dir: string): Promise<Omit<PreparedData, 'reused'> | undefined> {
  try {
    const path = join(dir, summaryName);
    const { invalidUtf8 } = summarySchema.parse(parseJson(await readFile(path), { part: 'data', what: path }));
    const heldOut = openPart(join(dir, 'held-out'));
    return { train: openPart(join(dir, 'train')), heldOut: heldOut.documents > 0 ? heldOut : undefined, invalidUtf8 };
  } catch {
    return undefined;
  }
}

function openPart(dir: string): PreparedPart {
  using shards = TokenShards.open(dir);
  const { documents, tokens, textBytes } = shards;
  return { dir, documents, tokens, textBytes };
}

async function fill(dir: string, options: PrepareOptions): Promise<void> {
  const { tokenizer, heldOut, addBos, addEos, threads = availableParallelism() } = withDefaults(options);
  const data: TokenizeWorkerData = {
    ...tokenizer.files,
    prefix: addBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [],
    suffix: addEos && tokenizer.eosId !== undefined ? [tokenizer.eosId] : [],
  };
  await using pool = new WorkerPool(workerUrl(import.meta.url, './tokenize-worker.js'), threads, data);
  const stats = newSourceStats();
  const train = await createWriter(join(dir, 'train'), tokenizer);
  const held = await createWriter(join(dir, 'held-out'), tokenizer);
  const groups = groupDocuments(readDocuments(options, stats));
  const tokenized = mapInOrder(groups, threads * 2, async ({ texts, first }) => ({
    first,
    group: await pool.run<TokenizedGroup>('tokenizeGroup', texts),
  }));
  for await (const { first, group } of tokenized) {
    throwIfAborted(options.signal);
    let at = 0;
    for (const [i, length] of group.lengths.entries()) {
      const part = splitPartOf(first + i, heldOut) === 'train' ? train : held;
      await part.add(group.ids.subarray(at, at + length), group.textBytes[i] as number);
      at += length;
    }
    options.onProgress?.({
      documents: train.totals.documents + held.totals.documents,
      tokens: train.totals.tokens + held.totals.tokens,
    });
  }
  await train.finish();
  await held.finish();
  const summary: z.infer<typeof summarySchema> = { invalidUtf8: stats.invalidUtf8 };
  await writeFileAtomic(join(dir, summaryName), `${JSON.stringify(summary)}\n`);
}

async function createWriter(dir: string, { vocabSize, hash }: Tokenizer): Promise<TokenShardWriter> {
  await mkdir(dir);
  return new TokenShardWriter(dir, { vocabSize, tokenizerHash: hash });
}
