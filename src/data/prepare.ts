import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { lstat, mkdir, readdir, readFile, rm, rmdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { throwIfAborted } from '../core/abort.js';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { usableProcessors } from '../core/processors.js';
import { workerUrl } from '../core/worker-url.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { DirectoryLock } from '../formats/directory-lock.js';
import { withFileErrors } from '../formats/file-error.js';
import { makeDirectory } from '../formats/make-directory.js';
import { isShardFile, type TokenShardState, TokenShardWriter, tokenShardState } from '../formats/token-shards.js';
import { pathOf, weightOf } from './data-config.js';
import { groupDocuments, mapInOrder } from './parallel.js';
import { isPrepared, manifestName, openPrepared, type PreparedData, type PreparedManifest } from './prepared.js';
import { newSourceStats, readDocuments, resolveSources, type SourceOptions, splitPartOf } from './sources.js';
import type { TokenizedGroup, TokenizeWorkerData } from './tokenize-worker.js';
import type { Tokenizer } from './tokenizer.js';
import { WorkerPool } from './worker-pool.js';

/** What to tokenize, and how. */
export interface PrepareDataOptions extends SourceOptions {
  readonly tokenizer: Tokenizer;
  /** Share of the documents kept out of training; 0.05 unless given. */
  readonly heldOut?: number;
  /** Start each document with bos, where the tokenizer has one; what the tokenizer says unless given, else true. */
  readonly addBos?: boolean;
  /** End each document with eos; true unless given, where the tokenizer has one. */
  readonly addEos?: boolean;
  /** Whether names of special tokens within a document are plain text; true unless given. */
  readonly specialTokensAsText?: boolean;
  /** Worker threads; as many as the machine offers unless given. The result does not depend on it. */
  readonly threads?: number;
  /** Tokens after which a shard is closed, from where a later call goes on; 2²⁶ unless given. */
  readonly shardTokens?: number;
  readonly onProgress?: (progress: { documents: number; tokens: number }) => void;
}

/** Token shards, and whether an earlier preparation was taken as it was. */
export type MadeData = PreparedData & { readonly reused: boolean };

/**
 * Tokenizes sources into token shards in a folder of `cacheDir` that is named by what they are made from, or takes
 * those that an earlier call made from the same files, tokenizer and options. Another process that is at the same work
 * is waited for.
 *
 * @throws HadalError HADAL_ERR_DATA, HADAL_ERR_IO, HADAL_ERR_ABORTED
 */
export async function prepareData(options: PrepareDataOptions & { cacheDir: string }): Promise<MadeData> {
  const dir = join(resolve(options.cacheDir), await keyOf(options));
  for (;;) {
    throwIfAborted(options.signal);
    try {
      return await prepareInto(dir, options, { isCache: true });
    } catch (error) {
      await rmdir(dir).catch(() => {}); // where nothing was begun, or all was removed
      if (!(error instanceof HadalError) || error.code !== 'HADAL_ERR_LOCKED') throw error;
      await setTimeout(200);
    }
  }
}

/**
 * Tokenizes sources into token shards in `dir`. What an interrupted or killed call with the same sources and options
 * left there is gone on with, to the very same bytes; what one has finished is taken, under the weights given now.
 *
 * @param behaviour.isCache - what a call that failed left, because of a bad line for example, is removed, and the
 * directory gets no copy of the tokenizer
 * @throws HadalError HADAL_ERR_CONFIG where `dir` holds anything else, HADAL_ERR_LOCKED, HADAL_ERR_DATA, HADAL_ERR_IO,
 * HADAL_ERR_ABORTED
 */
export async function prepareInto(
  dir: string,
  options: PrepareDataOptions,
  { isCache = false }: { isCache?: boolean } = {},
): Promise<MadeData> {
  throwIfAborted(options.signal);
  const key = await keyOf(options);
  await withFileErrors(`write ${dir}`, () => makeDirectory(dir));
  using _ = new DirectoryLock(dir, { file: lockName, part: 'data', verb: 'prepares data', fix: 'directory' });
  const earlier = await stateOf(dir, key, options.tokenizer);
  if (earlier === 'whole') return { ...(await reweighted(dir, options, isCache)), reused: true };
  try {
    await fill(dir, key, earlier, options, isCache);
  } catch (error) {
    const isInterrupted = error instanceof HadalError && error.code === 'HADAL_ERR_ABORTED';
    if (isCache && !isInterrupted) await removeContents(dir);
    throw error;
  }
  return { ...openPrepared(dir), reused: false };
}

const formatVersion = 2;
const lockName = 'prepare.lock';

/** Hash of what the data is made from: files by name, size and time. Weights are not of it: they change no shard. */
async function keyOf(options: PrepareDataOptions): Promise<string> {
  const { tokenizer, heldOut, addBos, addEos, specialTokensAsText, shardTokens } = withDefaults(options);
  const items = await resolveSources(options);
  const files = items.map(({ path, bytes, modifiedMs, kind, source, textField }) => [
    kind === 'synthetic' ? path : resolve(path),
    bytes,
    modifiedMs,
    source,
    textField,
  ]);
  const ends = [addBos ? tokenizer.bosId : undefined, addEos ? tokenizer.eosId : undefined];
  const how = [heldOut, options.invalidUtf8 ?? 'error', specialTokensAsText, shardTokens];
  const key = [formatVersion, files, tokenizer.hash, ends, how];
  return createHash('sha256').update(JSON.stringify(key)).digest('hex').slice(0, 16);
}

function withDefaults(options: PrepareDataOptions) {
  const {
    heldOut = 0.05,
    addBos = options.tokenizer.addsBos,
    addEos = true,
    specialTokensAsText = true,
    shardTokens = 2 ** 26,
  } = options;
  if (!(heldOut >= 0 && heldOut <= 0.5))
    throw new HadalError('HADAL_ERR_CONFIG', `[data] expected a heldOut share from 0 to 0.5, got ${heldOut}`);
  if (!(Number.isSafeInteger(shardTokens) && shardTokens > 0))
    throw new HadalError('HADAL_ERR_CONFIG', `[data] expected shardTokens of at least 1, got ${shardTokens}`);
  return { ...options, heldOut, addBos, addEos, specialTokensAsText, shardTokens };
}

const natural = z.number().int().nonnegative();
const counts = z.array(z.object({ train: natural, heldOut: natural }));
const progressSchema = z.object({ key: z.string(), sources: counts, train: tokenShardState, heldOut: tokenShardState });

/** How far a preparation has come: documents of each source, and the shards that are closed. */
type Progress = z.infer<typeof progressSchema>;

const progressName = 'progress.json';
const tokenizerNames = ['tokenizer.json', 'tokenizer_config.json'] as const;
const folders = { train: 'train', heldOut: 'held-out' } as const;

/** What `dir` holds of this preparation. @throws HadalError HADAL_ERR_CONFIG for what is not of it */
async function stateOf(dir: string, key: string, tokenizer: Tokenizer): Promise<'whole' | Progress | undefined> {
  const foreign = (what: string): HadalError =>
    new HadalError(
      'HADAL_ERR_CONFIG',
      `[data] expected ${dir} to be new or empty, got ${what} in it; choose another directory or remove it`,
    );
  const other = 'data prepared from other files or with other options';
  if (isPrepared(dir)) {
    const found = keyIn(dir);
    if (found === key) return 'whole';
    if (found !== undefined) throw foreign(other);
  }
  let earlier: Progress | undefined;
  const path = join(dir, progressName);
  if (existsSync(path)) {
    earlier = progressSchema.safeParse(parseJson(await readFile(path), { part: 'data', what: path })).data;
    if (earlier && earlier.key !== key) throw foreign(`the beginning of ${other}`);
  }
  // What stands in the way of a new beginning is removed; nobody else's files may be.
  const strange = await strangerIn(dir, tokenizer);
  if (strange !== undefined) throw foreign(`'${strange}'`);
  return earlier;
}

/** Key of what was prepared; undefined where it is damaged. */
function keyIn(dir: string): string | undefined {
  try {
    return openPrepared(dir).manifest.key;
  } catch {
    return undefined;
  }
}

/** Something in `dir` that no preparation with this tokenizer has made. */
async function strangerIn(dir: string, { files }: Tokenizer): Promise<string | undefined> {
  const isOwn = (name: string, own: string): boolean => name === own || name.startsWith(`${own}.tmp-`);
  const tokenizerFiles: Record<string, string | undefined> = {
    [tokenizerNames[0]]: files.json,
    [tokenizerNames[1]]: files.configJson,
  };
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    if (Object.values<string>(folders).includes(name)) {
      if (!(await lstat(path)).isDirectory()) return name;
      const strange = (await readdir(path)).find((inner) => !isShardFile(inner));
      if (strange !== undefined) return join(name, strange);
    } else if (Object.hasOwn(tokenizerFiles, name)) {
      if ((await readFile(path, 'utf8')) !== tokenizerFiles[name]) return name;
    } else if (![lockName, manifestName, progressName, ...tokenizerNames].some((own) => isOwn(name, own))) return name;
  }
  return undefined;
}

/** What is whole, under the weights asked for now. */
async function reweighted(dir: string, { sources }: PrepareDataOptions, isCache: boolean): Promise<PreparedData> {
  const data = openPrepared(dir);
  const weights = sources.map(weightOf);
  const change = <T extends object>(shares: readonly T[]): (T & { weight: number | undefined })[] =>
    shares.map((share, i) => ({ ...share, weight: weights[i] }));
  if (!isCache) await writeManifest(dir, { ...data.manifest, sources: change(data.manifest.sources) });
  return { ...data, train: { ...data.train, sources: change(data.train.sources) } };
}

async function fill(
  dir: string,
  key: string,
  earlier: Progress | undefined,
  options: PrepareDataOptions,
  isCache: boolean,
): Promise<void> {
  const {
    tokenizer,
    heldOut,
    addBos,
    addEos,
    specialTokensAsText,
    threads = usableProcessors(),
    shardTokens,
  } = withDefaults(options);
  const data: TokenizeWorkerData = {
    ...tokenizer.files,
    prefix: addBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [],
    suffix: addEos && tokenizer.eosId !== undefined ? [tokenizer.eosId] : [],
    specialTokensAsText,
  };
  const { sources, writers } = await begin(dir, earlier, options);
  const { json, configJson } = tokenizer.files;
  if (!isCache) {
    await writeFileAtomic(join(dir, tokenizerNames[0]), json);
    if (configJson !== undefined) await writeFileAtomic(join(dir, tokenizerNames[1]), configJson);
  }
  const { train, heldOut: held } = writers;
  const documents = (): number => train.totals.documents + held.totals.documents;
  await using pool = new WorkerPool(workerUrl(import.meta.url, './tokenize-worker.js'), threads, data);
  const stats = newSourceStats();
  const groups = groupDocuments(readDocuments(options, stats), documents());
  const tokenized = mapInOrder(groups, threads * 2, async ({ texts, ...rest }) => ({
    ...rest,
    group: await pool.run<TokenizedGroup>('tokenizeGroup', texts),
  }));
  for await (const { first, sources: sourceOf, group } of tokenized) {
    throwIfAborted(options.signal);
    let at = 0;
    for (const [i, length] of group.lengths.entries()) {
      const part = splitPartOf(first + i, heldOut);
      await writers[part].add(group.ids.subarray(at, at + length), group.textBytes[i] as number);
      (sources[sourceOf[i] as number] as (typeof sources)[number])[part]++;
      at += length;
    }
    // Groups are the same in every run, so shards closed between them are too.
    if (train.shardTokens + held.shardTokens >= shardTokens) {
      await train.closeShard();
      await held.closeShard();
      const progress: Progress = { key, sources, train: train.state, heldOut: held.state };
      await writeFileAtomic(join(dir, progressName), `${JSON.stringify(progress)}\n`);
    }
    options.onProgress?.({ documents: documents(), tokens: train.totals.tokens + held.totals.tokens });
  }
  await train.finish();
  await held.finish();
  const manifest: PreparedManifest = {
    format: 'hadal-prepared',
    version: 1,
    key,
    invalidUtf8: stats.invalidUtf8,
    sources: options.sources.map((source, i) => ({
      path: pathOf(source),
      weight: weightOf(source),
      ...(sources[i] as (typeof sources)[number]),
    })),
  };
  await writeManifest(dir, manifest);
  await rm(join(dir, progressName), { force: true });
}

async function writeManifest(dir: string, manifest: PreparedManifest): Promise<void> {
  await writeFileAtomic(join(dir, manifestName), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** Writers that go on from an earlier call's progress, or begin in empty folders. */
async function begin(dir: string, earlier: Progress | undefined, { tokenizer, sources }: PrepareDataOptions) {
  const writer = {
    vocabSize: tokenizer.vocabSize,
    tokenizerHash: tokenizer.hash,
    maxShardTokens: Number.POSITIVE_INFINITY,
  };
  const open = (part: keyof typeof folders, state: TokenShardState) =>
    TokenShardWriter.resume(join(dir, folders[part]), state, writer);
  if (earlier !== undefined && earlier.sources.length === sources.length) {
    const [train, heldOut] = [await open('train', earlier.train), await open('heldOut', earlier.heldOut)];
    if (train && heldOut) return { sources: earlier.sources, writers: { train, heldOut } };
  }
  await withFileErrors(`write ${dir}`, async () => {
    await removeContents(dir);
    for (const folder of Object.values(folders)) await mkdir(join(dir, folder));
  });
  return {
    sources: sources.map(() => ({ train: 0, heldOut: 0 })),
    writers: {
      train: new TokenShardWriter(join(dir, folders.train), writer),
      heldOut: new TokenShardWriter(join(dir, folders.heldOut), writer),
    },
  };
}

async function removeContents(dir: string): Promise<void> {
  for (const name of [manifestName, progressName, ...Object.values(folders)])
    await rm(join(dir, name), { recursive: true, force: true });
}
