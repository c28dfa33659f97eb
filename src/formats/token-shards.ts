import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { lstat, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { writeFileAtomic } from './atomic-file.js';
import { fileError, withFileErrors } from './file-error.js';
import { sha256OfFile } from './manifest.js';

// On disk: `tokens-00000.bin` holds the ids of whole documents one after another (uint16 or uint32, little-endian),
// `tokens-00000.idx` the documents' ends within it (uint32, in tokens), `index.json` says what there is.

const natural = z.number().int().nonnegative();
const indexSchema = z.object({
  format: z.literal('hadal-tokens'),
  version: z.literal(1),
  vocabSize: z.number().int().positive(),
  /** SHA-256 of the tokenizer.json that made the ids. */
  tokenizerHash: z.string(),
  dtype: z.enum(['uint16', 'uint32']),
  /** UTF-8 bytes of the text behind the tokens, for bits per byte. */
  textBytes: natural,
  shards: z.array(
    z.object({
      file: z.string().regex(/^[A-Za-z0-9._-]+\.bin$/),
      tokens: natural,
      documents: natural,
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
});

type TokenShardIndex = z.infer<typeof indexSchema>;

const indexName = 'index.json';

/** Whether a writer, perhaps one that was killed, may have made a file of that name. */
export const isShardFile = (name: string): boolean => /^(tokens-\d{5,}\.(bin|idx)|index\.json)(\.tmp-.*)?$/.test(name);

const idxOf = (file: string): string => file.replace(/\.bin$/, '.idx');

/** What a writer has put on disk; JSON-serialisable, for a later writer to go on from. */
export type TokenShardState = z.infer<typeof stateSchema>;

const stateSchema = z.object({
  shards: indexSchema.shape.shards,
  documents: natural,
  tokens: natural,
  textBytes: natural,
});

/** Checks a {@link TokenShardState} that was read from disk. */
export const tokenShardState: z.ZodType<TokenShardState> = stateSchema;

/**
 * Writes documents of token ids into `dir`, which must exist and be empty. Nothing can be opened before `finish()`.
 */
export class TokenShardWriter {
  private readonly shards: TokenShardIndex['shards'] = [];
  private pending: Uint8Array[] = [];
  private ends: number[] = [];
  /** Tokens added since the last shard was closed. */
  shardTokens = 0;
  /** What has been added so far; `textBytes` are UTF-8 bytes of the text behind the tokens. */
  readonly totals = { documents: 0, tokens: 0, textBytes: 0 };
  /** What is on disk: all that was added up to the last shard that was closed. */
  state: TokenShardState = { shards: [], ...this.totals };

  /** @param options.maxShardTokens - a shard is closed when it has that many; 2²⁶ unless given */
  constructor(
    private readonly dir: string,
    private readonly options: { vocabSize: number; tokenizerHash: string; maxShardTokens?: number },
  ) {}

  /**
   * A writer that goes on after the shards of an earlier one: what else lies in `dir` is removed.
   *
   * @returns undefined where those shards are not there, whole
   * @throws HadalError HADAL_ERR_IO
   */
  static async resume(
    dir: string,
    { shards, ...totals }: TokenShardState,
    options: { vocabSize: number; tokenizerHash: string; maxShardTokens?: number },
  ): Promise<TokenShardWriter | undefined> {
    const writer = new TokenShardWriter(dir, options);
    writer.shards.push(...shards);
    Object.assign(writer.totals, totals);
    writer.state = { shards, ...totals };
    const kept = new Map(
      shards.flatMap(({ file, tokens, documents }) => [
        [file, tokens * (writer.dtype === 'uint16' ? 2 : 4)],
        [idxOf(file), documents * 4],
      ]),
    );
    return withFileErrors(`read ${dir}`, async () => {
      // Through a link, files of others would be removed.
      if (!(await lstat(dir).catch(() => undefined))?.isDirectory()) return undefined;
      for (const [file, size] of kept) {
        const info = await stat(join(dir, file)).catch(() => undefined);
        if (!info?.isFile() || info.size !== size) return undefined;
      }
      for (const name of await readdir(dir)) if (!kept.has(name)) await rm(join(dir, name), { recursive: true });
      return writer;
    });
  }

  private get dtype(): 'uint16' | 'uint32' {
    return this.options.vocabSize <= 65536 ? 'uint16' : 'uint32';
  }

  /** Appends one document. @param textBytes - UTF-8 bytes of its text */
  async add(ids: Int32Array, textBytes: number): Promise<void> {
    const packed = this.dtype === 'uint16' ? Uint16Array.from(ids) : Uint32Array.from(ids);
    this.pending.push(new Uint8Array(packed.buffer));
    this.shardTokens += ids.length;
    this.totals.documents++;
    this.totals.tokens += ids.length;
    this.totals.textBytes += textBytes;
    this.ends.push(this.shardTokens);
    if (this.shardTokens >= (this.options.maxShardTokens ?? 2 ** 26)) await this.closeShard();
  }

  /** Writes what is left and the index. */
  async finish(): Promise<void> {
    await this.closeShard();
    const { vocabSize, tokenizerHash } = this.options;
    const index: TokenShardIndex = {
      format: 'hadal-tokens',
      version: 1,
      vocabSize,
      tokenizerHash,
      dtype: this.dtype,
      textBytes: this.totals.textBytes,
      shards: this.shards,
    };
    await writeFileAtomic(join(this.dir, indexName), `${JSON.stringify(index, null, 2)}\n`);
  }

  /** Puts what was added since the last shard on disk as another one, if it is anything. */
  async closeShard(): Promise<void> {
    if (this.ends.length === 0) return;
    const file = `tokens-${String(this.shards.length).padStart(5, '0')}.bin`;
    const path = join(this.dir, file);
    await withFileErrors(`write ${path}`, async () => {
      const handle = await open(path, 'wx');
      try {
        for (const bytes of this.pending) await handle.writeFile(bytes);
        await handle.sync();
      } finally {
        await handle.close();
      }
    });
    await writeFileAtomic(join(this.dir, idxOf(file)), new Uint8Array(Uint32Array.from(this.ends).buffer));
    this.shards.push({
      file,
      tokens: this.shardTokens,
      documents: this.ends.length,
      sha256: await sha256OfFile(path),
    });
    this.pending = [];
    this.ends = [];
    this.shardTokens = 0;
    this.state = { shards: [...this.shards], ...this.totals };
  }
}

interface OpenShard {
  readonly path: string;
  readonly descriptor: number;
  readonly firstDocument: number;
  /** Ends of the documents within the shard, in tokens. */
  readonly ends: Uint32Array;
}

/** Documents of token ids on disk, read by position. Reads are synchronous: a data worker has nothing else to do. */
export class TokenShards implements Disposable {
  readonly documents: number;
  readonly tokens: number;
  private closed = false;

  private constructor(
    readonly dir: string,
    private readonly index: TokenShardIndex,
    private readonly shards: readonly OpenShard[],
  ) {
    this.documents = index.shards.reduce((sum, shard) => sum + shard.documents, 0);
    this.tokens = index.shards.reduce((sum, shard) => sum + shard.tokens, 0);
  }

  get vocabSize(): number {
    return this.index.vocabSize;
  }

  get tokenizerHash(): string {
    return this.index.tokenizerHash;
  }

  /** UTF-8 bytes of the text behind all tokens. */
  get textBytes(): number {
    return this.index.textBytes;
  }

  /**
   * Opens a directory that {@link TokenShardWriter} filled. Sizes and document ends are checked here, contents by
   * {@link TokenShards.verify}.
   *
   * @throws HadalError HADAL_ERR_FORMAT, HADAL_ERR_IO
   */
  static open(dir: string): TokenShards {
    const path = join(dir, indexName);
    const parsed = indexSchema.safeParse(parseJson(readBytes(path), { part: 'token shards', what: path }));
    if (!parsed.success) throw formatError(path, 'an index of token shards', z.prettifyError(parsed.error));
    const shards: OpenShard[] = [];
    try {
      for (const shard of parsed.data.shards) {
        const previous = shards.at(-1);
        const firstDocument = previous === undefined ? 0 : previous.firstDocument + previous.ends.length;
        shards.push({ ...openShard(dir, shard, parsed.data.dtype), firstDocument });
      }
    } catch (error) {
      for (const { descriptor } of shards) closeSync(descriptor);
      throw error;
    }
    return new TokenShards(dir, parsed.data, shards);
  }

  /** Lengths of all documents, in order. */
  lengths(): Uint32Array {
    const lengths = new Uint32Array(this.documents);
    for (const { firstDocument, ends } of this.shards) {
      for (let i = 0; i < ends.length; i++)
        lengths[firstDocument + i] = (ends[i] as number) - (i > 0 ? (ends[i - 1] as number) : 0);
    }
    return lengths;
  }

  /**
   * Ids of a document.
   *
   * @throws HadalError HADAL_ERR_FORMAT when the file was cut or an id is not below the vocabulary's size
   */
  read(document: number): Int32Array {
    if (this.closed)
      throw new HadalError('HADAL_ERR_DISPOSED', `[token shards] expected ${this.dir} open, got a closed one`);
    const { shard, begin, end } = this.locate(document);
    const stored = this.index.dtype === 'uint16' ? new Uint16Array(end - begin) : new Uint32Array(end - begin);
    const bytes = new Uint8Array(stored.buffer);
    readFullySync(shard, bytes, begin * stored.BYTES_PER_ELEMENT);
    for (const id of stored) {
      if (id >= this.vocabSize)
        throw formatError(shard.path, `ids below ${this.vocabSize}`, `${id} in document ${document}`);
    }
    return stored instanceof Uint16Array ? Int32Array.from(stored) : new Int32Array(stored.buffer);
  }

  /** Compares all contents with their checksums. @throws HadalError HADAL_ERR_FORMAT */
  async verify(): Promise<void> {
    for (const { file, sha256 } of this.index.shards) {
      const path = join(this.dir, file);
      if ((await sha256OfFile(path)) !== sha256)
        throw formatError(path, 'the contents that were written', 'another checksum');
    }
  }

  [Symbol.dispose](): void {
    if (this.closed) return;
    this.closed = true;
    for (const { descriptor } of this.shards) closeSync(descriptor);
  }

  private locate(document: number): { shard: OpenShard; begin: number; end: number } {
    if (!(document >= 0 && document < this.documents)) {
      throw new HadalError(
        'HADAL_ERR_DATA',
        `[token shards] expected a document below ${this.documents}, got ${document}`,
      );
    }
    const shard = this.shards.findLast(({ firstDocument }) => firstDocument <= document) as OpenShard;
    const i = document - shard.firstDocument;
    return { shard, begin: i > 0 ? (shard.ends[i - 1] as number) : 0, end: shard.ends[i] as number };
  }
}

function openShard(
  dir: string,
  { file, tokens, documents }: TokenShardIndex['shards'][number],
  dtype: TokenShardIndex['dtype'],
): Omit<OpenShard, 'firstDocument'> {
  const path = join(dir, file);
  const idxPath = join(dir, idxOf(file));
  const idx = readBytes(idxPath);
  if (idx.byteLength !== documents * 4) throw formatError(idxPath, `${documents * 4} bytes`, `${idx.byteLength}`);
  const ends = new Uint32Array(idx.buffer, idx.byteOffset, documents);
  for (let i = 1; i < documents; i++) {
    if ((ends[i] as number) < (ends[i - 1] as number))
      throw formatError(idxPath, 'ends that never fall', `document ${i}`);
  }
  if ((ends.at(-1) ?? 0) !== tokens) throw formatError(idxPath, `the last end at ${tokens}`, `${ends.at(-1)}`);
  const descriptor = openFile(path);
  const { size } = fstatSync(descriptor);
  if (size === tokens * (dtype === 'uint16' ? 2 : 4)) return { path, descriptor, ends };
  closeSync(descriptor);
  throw formatError(path, `${tokens} ids of ${dtype}`, `${size} bytes`);
}

function readFullySync({ path, descriptor }: OpenShard, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.byteLength; ) {
    const read = sync(`read ${path}`, () =>
      readSync(descriptor, bytes, done, bytes.byteLength - done, position + done),
    );
    if (read === 0) throw formatError(path, `${position + bytes.byteLength} bytes`, `an end after ${position + done}`);
    done += read;
  }
}

/** A whole file in a buffer of its own, so that typed views of it lie aligned. */
function readBytes(path: string): Uint8Array {
  const descriptor = openFile(path);
  try {
    return Uint8Array.from(sync(`read ${path}`, () => readFileSync(descriptor)));
  } finally {
    closeSync(descriptor);
  }
}

/** Opens a file, and nothing that could keep a reader waiting. */
function openFile(path: string): number {
  if (!sync(`read ${path}`, () => statSync(path)).isFile()) throw formatError(path, 'a file', 'something else');
  return sync(`read ${path}`, () => openSync(path, 'r'));
}

function sync<T>(doing: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw fileError(error, doing);
  }
}

function formatError(path: string, expected: string, got: string): HadalError {
  return new HadalError(
    'HADAL_ERR_FORMAT',
    `[token shards] expected ${expected} in ${path}, got ${got}; prepare the data anew`,
  );
}
