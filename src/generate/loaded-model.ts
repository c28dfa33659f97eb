import { openModel, Session, type SessionOptions } from '../session/session.js';
import { type ChatOptions, chat, chatPrompt, type TemplateOptions } from './chat.js';
import type { ChatMessage } from './chat-template.js';
import {
  type BatchPiece,
  type BatchSummary,
  collectText,
  type GeneratedText,
  type GenerateOptions,
  type GenerationSummary,
  generate,
  generateBatch,
} from './generate.js';
import type { Piece } from './row.js';

/** A session that also generates. */
export class LoadedModel extends Session {
  /** Continues a prompt, token by token; see `generate`. */
  generate(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<Piece, GenerationSummary, undefined> {
    return generate(this, prompt, options);
  }

  /** Continues a prompt and returns all of it at once. @throws HadalError as `generate` */
  generateText(prompt: string | readonly number[], options: GenerateOptions = {}): Promise<GeneratedText> {
    return collectText(this.generate(prompt, options));
  }

  /** Continues several prompts at once; see `generateBatch`. */
  generateBatch(
    prompts: readonly (string | readonly number[])[],
    options: GenerateOptions = {},
  ): AsyncGenerator<BatchPiece, BatchSummary, undefined> {
    return generateBatch(this, prompts, options);
  }

  /** Answers the last message of a conversation, token by token; see `chat`. */
  chat(
    messages: readonly ChatMessage[],
    options: ChatOptions = {},
  ): AsyncGenerator<Piece, GenerationSummary, undefined> {
    return chat(this, messages, options);
  }

  /** Answers a conversation and returns all of it at once. @throws HadalError as `chat` */
  chatText(messages: readonly ChatMessage[], options: ChatOptions = {}): Promise<GeneratedText> {
    return collectText(this.chat(messages, options));
  }

  /** The prompt that a conversation becomes; see `chatPrompt`. */
  chatPrompt(messages: readonly ChatMessage[], options: TemplateOptions = {}): Promise<string> {
    return chatPrompt(this, messages, options);
  }
}

/**
 * Opens a model; dispose of it with `using` or `dispose()`.
 *
 * @param path - a checkpoint, another directory of Hugging Face, or a GGUF file
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_CHECKPOINT, HADAL_ERR_FORMAT, HADAL_ERR_IO, HADAL_ERR_DEVICE, HADAL_ERR_DTYPE
 */
export async function loadModel(path: string, options: SessionOptions = {}): Promise<LoadedModel> {
  return new LoadedModel(await openModel(path, options), { owns: true });
}
