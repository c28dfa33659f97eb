// What a preparation leaves on disk: `train/` and `held-out/` with token shards, `prepared.json` last of all. A
// directory that `hadal prepare` made also holds the tokenizer.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { fileError } from '../formats/file-error.js';
import { TokenShards } from '../formats/token-shards.js';

/** The documents of one source, which lie together. */
export interface SourceShare {
  readonly documents: number;
  /** The source's share of the training rows, relative to the others'; undefined: as many as it has tokens. */
  readonly weight?: number | undefined;
}

/** One part of the data. */
export interface PreparedPart {
  /** Directory of its token shards. */
  readonly dir: string;
  readonly documents: number;
  readonly tokens: number;
  /** UTF-8 bytes of the text behind the tokens. */
  readonly textBytes: number;
  /** In the order of the documents. */
  readonly sources: readonly SourceShare[];
}

/** Token shards ready for a loader. */
export interface PreparedData {
  readonly train: PreparedPart;
  /** Undefined where nothing is held out: a share of 0, or a single document. */
  readonly heldOut: PreparedPart | undefined;
  /** Characters that stood for bytes that were not UTF-8. */
  readonly invalidUtf8: number;
  /** SHA-256 of the tokenizer.json that made the ids. */
  readonly tokenizerHash: string;
}

const natural = z.number().int().nonnegative();
const manifestSchema = z.object({
  format: z.literal('hadal-prepared'),
  version: z.literal(1),
  /** Hash of what the data was made from, and how. */
  key: z.string(),
  invalidUtf8: natural,
  sources: z.array(
    z.object({ path: z.string(), weight: z.number().positive().optional(), train: natural, heldOut: natural }),
  ),
});

/** Contents of `prepared.json`. Paths are there for people: nothing opens them. */
export type PreparedManifest = z.infer<typeof manifestSchema>;

/** Name of the file that says that a directory holds prepared data. */
export const manifestName = 'prepared.json';

/** Whether a path is a directory of prepared data, whole or damaged. */
export function isPrepared(path: string): boolean {
  return existsSync(join(path, manifestName));
}

/**
 * Opens a directory of prepared data and checks sizes.
 *
 * @throws HadalError HADAL_ERR_FORMAT, HADAL_ERR_IO
 */
export function openPrepared(dir: string): PreparedData & { manifest: PreparedManifest } {
  const path = join(dir, manifestName);
  let text: Uint8Array;
  try {
    text = readFileSync(path);
  } catch (error) {
    throw fileError(error, `read ${path}`);
  }
  const parsed = manifestSchema.safeParse(parseJson(text, { part: 'data', what: path }));
  if (!parsed.success) throw formatError(`a manifest of prepared data in ${path}`, z.prettifyError(parsed.error));
  const manifest = parsed.data;
  let tokenizerHash = '';
  const part = (name: 'train' | 'heldOut', folder: string): PreparedPart => {
    using shards = TokenShards.open(join(dir, folder));
    tokenizerHash = shards.tokenizerHash;
    const { documents, tokens, textBytes } = shards;
    const sources = manifest.sources.map((source) => ({ documents: source[name], weight: source.weight }));
    const sum = sources.reduce((total, source) => total + source.documents, 0);
    if (sum !== documents) throw formatError(`${sum} documents in ${join(dir, folder)}`, `${documents}`);
    return { dir: join(dir, folder), documents, tokens, textBytes, sources };
  };
  const heldOut = part('heldOut', 'held-out');
  return {
    train: part('train', 'train'),
    tokenizerHash,
    heldOut: heldOut.documents > 0 ? heldOut : undefined,
    invalidUtf8: manifest.invalidUtf8,
    manifest,
  };
}

function formatError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_FORMAT', `[data] expected ${expected}, got ${got}; prepare the data anew`);
}
