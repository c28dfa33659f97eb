import { workerData } from 'piscina';
import { PlainTextEncoder } from './plain-text-encoder.js';
import { createTokenizer, type Tokenizer } from './tokenizer.js';
import { toWorkerResult, type WorkerResult } from './worker-pool.js';

/** What each worker is started with. */
export interface TokenizeWorkerData {
  readonly json: string;
  readonly configJson: string | undefined;
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
  /** Whether names of special tokens within a text are plain text. */
  readonly specialTokensAsText: boolean;
}

/** Documents one after another. */
export interface TokenizedGroup {
  readonly ids: Int32Array;
  readonly lengths: number[];
  /** UTF-8 bytes of each text. */
  readonly textBytes: number[];
}

let encoder: Pick<Tokenizer, 'encodeBatch'> | undefined;

/** Ids of each text between the prefix (bos) and the suffix (eos). */
export function tokenizeGroup(texts: string[]): Promise<WorkerResult<TokenizedGroup>> {
  return toWorkerResult(async () => {
    const { json, configJson, prefix, suffix, specialTokensAsText } = workerData as TokenizeWorkerData;
    encoder ??= specialTokensAsText
      ? new PlainTextEncoder(createTokenizer(json, configJson))
      : createTokenizer(json, configJson);
    const encoded = await encoder.encodeBatch(texts);
    const lengths = encoded.map((ids) => prefix.length + ids.length + suffix.length);
    const ids = new Int32Array(new SharedArrayBuffer(4 * lengths.reduce((sum, length) => sum + length, 0)));
    let at = 0;
    for (const body of encoded) {
      for (const part of [prefix, body, suffix]) {
        ids.set(part, at);
        at += part.length;
      }
    }
    return { ids, lengths, textBytes: texts.map((text) => Buffer.byteLength(text)) };
  });
}
