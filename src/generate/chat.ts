// Conversations: messages become a prompt by the checkpoint's template, and the answer is what continues it.
import { HadalError } from '../core/errors.js';
import type { Session } from '../session/session.js';
import { type ChatMessage, readChatConfig, renderChat } from './chat-template.js';
import { type GenerateOptions, type GenerationSummary, generate } from './generate.js';
import type { Piece } from './row.js';

/** How messages become a prompt. */
export interface TemplateOptions {
  /** A Jinja chat template; the checkpoint's own unless given. */
  template?: string;
  /** Which of the checkpoint's templates, where there are several; 'default' unless given. */
  templateName?: string;
  /** Further variables of the template, such as `tools` or `enable_thinking`: plain data. */
  templateVariables?: Readonly<Record<string, unknown>>;
  /** End the prompt with the beginning of an answer; true unless given. */
  addGenerationPrompt?: boolean;
}

/** Options of `chat`. */
export interface ChatOptions extends Omit<GenerateOptions, 'addBos'>, TemplateOptions {}

/**
 * The prompt that a conversation becomes, as `apply_chat_template` of transformers makes it.
 *
 * @throws HadalError HADAL_ERR_CONFIG when there is no template, HADAL_ERR_FORMAT for a tokenizer_config.json that is
 *   damaged, HADAL_ERR_DATA for messages that the template refuses and for a template that fails
 */
export async function chatPrompt(
  { tokenizer }: Session,
  messages: readonly ChatMessage[],
  { template, templateName = 'default', templateVariables = {}, addGenerationPrompt = true }: TemplateOptions = {},
): Promise<string> {
  const { templates, tokens } = readChatConfig(tokenizer?.files.configJson);
  const source = template ?? templates.get(templateName);
  if (source === undefined) throw missing(templateName, [...templates.keys()]);
  return renderChat(source, messages, { ...tokens, add_generation_prompt: addGenerationPrompt, ...templateVariables });
}

/**
 * Answers the last message of a conversation, token by token; see `generate`.
 *
 * @param messages - the conversation so far; the answer is not added to it
 * @throws HadalError as `chatPrompt` and `generate`
 */
export async function* chat(
  session: Session,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): AsyncGenerator<Piece, GenerationSummary, undefined> {
  const prompt = await chatPrompt(session, messages, options);
  // A template writes bos itself.
  return yield* generate(session, prompt, { ...options, addBos: false });
}

function missing(name: string, names: readonly string[]): HadalError {
  const [expected, got, advice] =
    names.length === 0
      ? ['a chat template beside the model', 'none', "give one as 'template' (hadal chat --template file.jinja)"]
      : [`a chat template named '${name}'`, names.join(', '), "name one of them as 'templateName'"];
  return new HadalError('HADAL_ERR_CONFIG', `[chat] expected ${expected}, got ${got}; ${advice}`);
}
