import { HadalError } from '../core/errors.js';
import type { Session } from '../session/session.js';
import { CachedDecoder } from './decoder.js';
import { type Choice, Sampler, type SamplingOptions } from './sampling.js';

/** Options of {@link generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** The most tokens to generate; 256 unless given. The model's longest sequence limits it too. */
  maxTokens?: number;
  /** Begin a text prompt with the tokenizer's bos, as training data does; true unless given. */
  addBos?: boolean;
  /** Go on after the end token; false unless given. */
  ignoreEos?: boolean;
  /** Ends the generation after the current token. */
  signal?: AbortSignal;
}

/** A generated token. */
export interface Piece extends Choice {
  /** New text; empty while a character's bytes are not all there, and without a tokenizer. */
  text: string;
}

/**
 * Continues a prompt, token by token. Ends after the end token, which is the last piece then, after `maxTokens`, where
 * the model's positions end, or when the signal says so.
 *
 * @param prompt - text, or token ids
 * @throws HadalError HADAL_ERR_DATA for an empty prompt, one that is too long, ids outside of the vocabulary, or text for
 *   a model without tokenizer; HADAL_ERR_CONFIG for options that make no sense
 */
export async function* generate(
  session: Session,
  prompt: string | readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<Piece, void, undefined> {
  const { maxTokens = 256, signal } = options;
  if (!(Number.isInteger(maxTokens) && maxTokens >= 1)) {
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[generate] option 'maxTokens' expected a whole number from 1 on, got ${maxTokens}`,
    );
  }
  const sampler = new Sampler(options);
  const ids = typeof prompt === 'string' ? await encode(session, prompt, options.addBos ?? true) : prompt;
  session.checkTokens(ids, 'the prompt');
  // The last token is not fed, so it needs no position.
  const limit = Math.min(maxTokens, session.model.maxPositions - ids.length + 1);
  const ends = options.ignoreEos ? new Set<number>() : endTokens(session);
  const texts = session.tokenizer?.decodeStream();

  using decoder = new CachedDecoder(session, { positions: ids.length + limit - 1 });
  let fed = ids;
  for (let count = 1; count <= limit && !signal?.aborted; count++) {
    const [logits] = await decoder.feed([fed]);
    const choice = sampler.choose(logits as Float32Array);
    const isLast = count === limit || ends.has(choice.id);
    const text = texts ? (await texts.push(choice.id)) + (isLast ? await texts.flush() : '') : '';
    yield { ...choice, text };
    if (isLast) return;
    fed = [choice.id];
  }
}

async function encode({ tokenizer }: Session, text: string, addBos: boolean): Promise<number[]> {
  if (!tokenizer) {
    throw new HadalError('HADAL_ERR_DATA', '[generate] expected token ids for a model without tokenizer, got text');
  }
  const bos = addBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  return [...bos, ...(await tokenizer.encode(text))];
}

/** What ends a text, by the tokenizer and by config.json. */
function endTokens({ model, tokenizer }: Session): Set<number> {
  const { eos_token_id: configured } = model.toHuggingFace();
  return new Set([tokenizer?.eosId, configured].filter((id): id is number => typeof id === 'number'));
}
