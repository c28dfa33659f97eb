// Chat templates: Jinja programs that come with a checkpoint, from whoever made it. They are rendered in a process of
// their own that has no environment and little time and memory, by an interpreter that knows no JavaScript objects.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { workerUrl } from '../core/worker-url.js';

/** A turn of a conversation. Templates may look at further fields. */
export interface ChatMessage {
  /** Usually 'system', 'user' or 'assistant'. */
  role: string;
  content?: string | null;
  readonly [field: string]: unknown;
}

/** What the rendering process is sent. */
export interface TemplateRequest {
  template: string;
  variables: Record<string, unknown>;
  mostChars: number;
}

/** What it sends back. */
export type TemplateAnswer = { text: string } | { error: string };

const token = z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)]);
const configSchema = z.looseObject({
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
});

/** Of a tokenizer_config.json, what chats need. */
export interface ChatConfig {
  /** By name; a single one is called 'default'. */
  templates: ReadonlyMap<string, string>;
  /** `bos_token` and its like. */
  tokens: Readonly<Record<string, string>>;
}

/** @throws HadalError HADAL_ERR_FORMAT */
export function readChatConfig(configJson: string | undefined): ChatConfig {
  const parsed = configSchema.safeParse(
    parseJson(configJson ?? '{}', { part: 'chat', what: "the model's tokenizer_config.json" }),
  );
  if (!parsed.success) {
    throw new HadalError(
      'HADAL_ERR_FORMAT',
      `[chat] expected a chat_template in the model's tokenizer_config.json, got ${z.prettifyError(parsed.error)}`,
    );
  }
  const { chat_template: given, ...rest } = parsed.data;
  const templates = typeof given === 'string' ? [{ name: 'default', template: given }] : (given ?? []);
  const tokens = Object.entries(rest).flatMap(([key, value]) => {
    const name = key.endsWith('_token') ? token.safeParse(value) : null;
    return name?.success ? [[key, name.data] as const] : [];
  });
  return {
    templates: new Map(templates.map(({ name, template }) => [name, template])),
    tokens: Object.fromEntries(tokens),
  };
}

const mostChars = 1 << 22;
/** Of the rendering itself; any real template takes a few. */
const mostMs = 800;
/** With the start of the process, which a busy machine may be slow at. */
const mostMsInAll = 15_000;
/** Node itself needs about 15. */
const heapMiB = 96;

/**
 * Renders a template as transformers' `apply_chat_template` does: fields that are null are left out, `tools` and
 * `documents` are none.
 *
 * @throws HadalError HADAL_ERR_DATA with what the template says is wrong, or for one that takes over 0.8 s, too much
 *   memory, or writes over 4 Mi characters
 */
export async function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  variables: Readonly<Record<string, unknown>>,
): Promise<string> {
  if (messages.length === 0) throw chatError('at least one message', 'none');
  const request: TemplateRequest = {
    template,
    variables: { tools: null, documents: null, ...variables, messages: messages.map(withoutNulls) },
    mostChars,
  };
  const answer = await render(toJson(request));
  if ('text' in answer) return answer.text;
  throw chatError('a chat template that renders', answer.error.slice(0, 500));
}

const withoutNulls = (message: ChatMessage) =>
  Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null));

function toJson(request: TemplateRequest): string {
  try {
    return JSON.stringify(request);
  } catch (error) {
    throw chatError('messages of plain data', (error as Error).message);
  }
}

async function render(request: string): Promise<TemplateAnswer> {
  const file = fileURLToPath(workerUrl(import.meta.url, './chat-template-worker.js'));
  const { TZ } = process.env;
  const child = spawn(process.execPath, [`--max-old-space-size=${heapMiB}`, '--max-semi-space-size=4', file], {
    env: TZ === undefined ? {} : { TZ },
    stdio: ['pipe', 'pipe', 'ignore'],
    detached: true, // Ctrl-C on the terminal is for us to handle
    windowsHide: true,
  });
  const ended = once(child, 'close').catch((error: Error) => {
    throw chatError('a process that renders the chat template', error.message);
  });
  const kill = () => void child.kill('SIGKILL');
  let timer = setTimeout(kill, mostMsInAll);
  child.stdout.once('data', () => {
    clearTimeout(timer);
    timer = setTimeout(kill, mostMs);
  });
  child.stdin.on('error', () => {}); // a process that ended early says so by its signal
  child.stdin.end(request);
  try {
    const [answer, [status, signal]] = await Promise.all([text(child.stdout), ended]);
    if (status === 0) return JSON.parse(answer) as TemplateAnswer;
    throw chatError('a chat template that renders', endOf(status, signal));
  } finally {
    clearTimeout(timer);
  }
}

/** Why the process gave no answer. */
function endOf(status: number | null, signal: NodeJS.Signals | null): string {
  if (signal === 'SIGKILL') return `one that needs more than ${mostMs / 1000} s`;
  // V8 ends a process that reaches its limit by one of these, depending on the machine.
  const isMemory = ['SIGABRT', 'SIGTRAP', 'SIGILL', 'SIGSEGV'].includes(signal ?? '');
  return isMemory ? `one that needs more than ${heapMiB} MiB of memory` : `a process that ended by ${signal ?? status}`;
}

function chatError(expected: string, got: string): HadalError {
  return new HadalError('HADAL_ERR_DATA', `[chat] expected ${expected}, got ${got}`);
}
