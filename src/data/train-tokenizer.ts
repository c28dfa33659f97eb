import { join } from 'node:path';
import { MessageChannel } from 'node:worker_threads';
import { throwIfAborted } from '../core/abort.js';
import { HadalError } from '../core/errors.js';
import { usableProcessors } from '../core/processors.js';
import { workerUrl } from '../core/worker-url.js';
import { writeFileAtomic } from '../formats/atomic-file.js';
import { type Merge, maxVocabSize } from './learn-merges.js';
import { groupDocuments, mapInOrder } from './parallel.js';
import { charOfByte, splitPatterns } from './pre-tokenize.js';
import { readDocuments, type SourceOptions, splitPartOf } from './sources.js';
import type { MergeTask, WordCounts } from './train-tokenizer-worker.js';
import { WorkerPool } from './worker-pool.js';

/** Tokens that no text is split into. They get the first ids, in this order. */
export interface SpecialTokens {
  readonly bos?: string;
  readonly eos?: string;
  readonly pad?: string;
  readonly others?: readonly string[];
}

/** What to learn a vocabulary from. */
export interface TrainTokenizerOptions extends SourceOptions {
  /** All ids: special tokens, 256 bytes, merges. */
  readonly vocabSize: number;
  readonly specialTokens?: SpecialTokens;
  /** Share of the documents left out, as `prepareData` takes it, so that held-out text stays unseen; 0 unless given. */
  readonly heldOut?: number;
  /** Worker threads; as many as the machine offers unless given. The result does not depend on it. */
  readonly threads?: number;
  /** Documents read, then merges learnt of `total`. */
  readonly onProgress?: (progress: { phase: 'words' | 'merges'; done: number; total?: number }) => void;
}

/** A learnt tokenizer as the contents of its files. */
export interface TrainedTokenizer {
  /** Contents of tokenizer.json. */
  readonly json: string;
  /** Contents of tokenizer_config.json. */
  readonly configJson: string;
  /** Less than asked for where the text has too few different pairs. */
  readonly vocabSize: number;
}

const usualSpecialTokens = { bos: '<|begin_of_sentence|>', eos: '<|end_of_sentence|>', pad: '<|pad|>' };

/**
 * Learns a byte-level byte-pair encoding whose tokenizer.json the Hugging Face libraries load. Words are counted in
 * worker threads, merges learnt in one; the same text gives the same tokenizer on any number of threads.
 *
 * @throws HadalError HADAL_ERR_CONFIG for an impossible vocabulary size, HADAL_ERR_DATA, HADAL_ERR_IO, HADAL_ERR_ABORTED
 */
export async function trainTokenizer(options: TrainTokenizerOptions): Promise<TrainedTokenizer> {
  const { vocabSize, signal, threads = usableProcessors() } = options;
  const special = { ...usualSpecialTokens, ...options.specialTokens };
  const first = [...new Set([special.bos, special.eos, special.pad, ...(special.others ?? [])])];
  const least = first.length + 256;
  if (!Number.isSafeInteger(vocabSize) || vocabSize < least || vocabSize > maxVocabSize) {
    const expected = `a vocabulary of ${least} (special tokens and bytes) to ${maxVocabSize}`;
    throw new HadalError('HADAL_ERR_CONFIG', `[tokenizer] expected ${expected}, got ${vocabSize}`);
  }
  throwIfAborted(signal);
  await using pool = new WorkerPool(workerUrl(import.meta.url, './train-tokenizer-worker.js'), threads);
  const stop = (): void => void pool[Symbol.asyncDispose]();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    const words = await countAllWords(pool, threads, options);
    const merges = await learnAllMerges(pool, words, vocabSize - least, options);
    const vocabulary = [...first, ...symbolTexts(merges)];
    return {
      json: tokenizerJson(vocabulary, first.length, merges),
      configJson: configJson(special),
      vocabSize: vocabulary.length,
    };
  } catch (error) {
    throwIfAborted(signal); // what stopping the workers threw says less
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** Writes tokenizer.json and tokenizer_config.json, each whole or not at all. @throws HadalError HADAL_ERR_IO */
export async function saveTokenizer(
  dir: string,
  { json, configJson }: Pick<TrainedTokenizer, 'json' | 'configJson'>,
): Promise<void> {
  await writeFileAtomic(join(dir, 'tokenizer_config.json'), configJson);
  await writeFileAtomic(join(dir, 'tokenizer.json'), json);
}

async function countAllWords(pool: WorkerPool, threads: number, options: TrainTokenizerOptions): Promise<WordCounts> {
  const totals = new Map<string, number>();
  const groups = groupDocuments(readDocuments(options));
  let documents = 0;
  const counted = mapInOrder(groups, threads * 2, async ({ texts, first }) => {
    const kept = texts.filter((_, i) => splitPartOf(first + i, options.heldOut ?? 0) === 'train');
    return { documents: texts.length, found: await pool.run<WordCounts>('countWords', kept) };
  });
  for await (const { documents: more, found } of counted) {
    throwIfAborted(options.signal);
    for (const [i, word] of found.words.entries())
      totals.set(word, (totals.get(word) ?? 0) + (found.counts[i] as number));
    documents += more;
    options.onProgress?.({ phase: 'words', done: documents });
  }
  return { words: [...totals.keys()], counts: [...totals.values()] };
}

async function learnAllMerges(
  pool: WorkerPool,
  words: WordCounts,
  maxMerges: number,
  { onProgress }: TrainTokenizerOptions,
): Promise<Merge[]> {
  const { port1, port2 } = new MessageChannel();
  port1.on('message', (done: number) => onProgress?.({ phase: 'merges', done, total: maxMerges }));
  try {
    const task: MergeTask = { ...words, maxMerges, progress: port2 };
    return await pool.run<Merge[]>('mergeWords', task, [port2]);
  } finally {
    port1.close();
  }
}

/** Every symbol written in byte-level characters. */
function symbolTexts(merges: readonly Merge[]): string[] {
  const texts = [...charOfByte];
  for (const [left, right] of merges) texts.push(`${texts[left]}${texts[right]}`);
  return texts;
}

function tokenizerJson(vocabulary: readonly string[], specials: number, merges: readonly Merge[]): string {
  const text = (symbol: number): string => vocabulary[specials + symbol] as string;
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const splits = splitPatterns.map((Regex) => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    invert: false,
  }));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: vocabulary.slice(0, specials).map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: [...splits, byteLevel] },
    post_processor: { ...byteLevel, trim_offsets: false },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges: merges.map(([left, right]) => `${text(left)} ${text(right)}`),
    },
  };
  return `${JSON.stringify(tokenizer)}\n`;
}

function configJson({ bos, eos, pad }: Required<Pick<SpecialTokens, 'bos' | 'eos' | 'pad'>>): string {
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: bos,
    eos_token: eos,
    pad_token: pad,
    clean_up_tokenization_spaces: false,
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}
