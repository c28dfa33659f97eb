// `hadal chat`: reads messages, writes answers.
import { readFile } from 'node:fs/promises';
import { HadalError } from '../core/errors.js';
import { withFileErrors } from '../formats/file-error.js';
import { loadModel } from '../generate/loaded-model.js';
import type { ChatFlags } from './chat.js';
import { type ChatStreams, type Input, parseInput, pipedLines, Terminal } from './chat-input.js';
import { type Answer, Conversation } from './conversation.js';
import { dimmed, generateOptionsFrom, speedLine } from './generation-flags.js';
import { abortOnInterrupt } from './interrupt.js';

/**
 * Talks until the input ends or says so.
 *
 * @throws HadalError HADAL_ERR_CONFIG for a model without a chat template, HADAL_ERR_ABORTED when a chat that is no
 *   terminal's is interrupted, and what `loadModel` and `chat` throw
 */
export async function runChat(flags: ChatFlags, streams: ChatStreams = process): Promise<void> {
  const { template: path, templateName, system, maxTokens } = flags;
  const template = path === undefined ? null : await withFileErrors(`read ${path}`, () => readFile(path, 'utf8'));
  using model = await loadModel(flags.model, flags);
  const conversation = new Conversation(
    model,
    {
      ...generateOptionsFrom(flags),
      maxTokens,
      ...(template === null ? {} : { template }),
      ...(templateName === undefined ? {} : { templateName }),
    },
    system,
  );
  await conversation.check();
  if (streams.stdin.isTTY && streams.stdout.isTTY && !flags.json) await talk(conversation, streams);
  else await answerLines(conversation, streams, flags.json ?? false);
}

/** A chat on a terminal, where an error ends no more than the answer. */
async function talk(conversation: Conversation, streams: ChatStreams): Promise<void> {
  using terminal = new Terminal(streams);
  const { stdout, stderr } = streams;
  const note = (text: string) => void stderr.write(`${dimmed(text, stderr)}\n`);
  note('/help tells what can be said besides messages');
  for (;;) {
    const line = await terminal.ask('> ');
    if (line === null) {
      stdout.write('\n');
      return;
    }
    try {
      const input = parseInput(line);
      if (input.kind === 'exit') return;
      if (input.kind !== 'message') note(obey(conversation, input));
      else {
        const write = (text: string) => void stdout.write(text);
        const answer = await terminal.interruptible((signal) => conversation.answer(input.text, write, signal));
        stdout.write('\n');
        for (const text of remarks(answer)) note(text);
      }
    } catch (error) {
      if (!(error instanceof HadalError)) throw error;
      stderr.write(`hadal: ${error.message}\n`);
    }
  }
}

/** Does what a command says. @returns what to tell of it */
function obey(conversation: Conversation, input: Exclude<Input, { kind: 'message' | 'exit' }>): string {
  switch (input.kind) {
    case 'reset':
      conversation.reset();
      return 'forgotten';
    case 'system':
      conversation.system = input.text;
      return input.text === '' ? 'no system prompt' : 'the system prompt is set';
    case 'unknown':
      return `expected /reset, /system, /exit or /help, got ${input.text}`;
    default:
      return '/reset forgets the conversation, /system <text> sets the system prompt, /exit leaves; Ctrl-C stops an answer';
  }
}

/** Answers line by line. */
async function answerLines(conversation: Conversation, streams: ChatStreams, json: boolean): Promise<void> {
  using signal = abortOnInterrupt(() => {});
  const { stdout, stderr } = streams;
  for await (const line of pipedLines(streams.stdin, signal)) {
    const input = parseInput(line);
    if (input.kind === 'exit') break;
    if (input.kind === 'nothing') continue;
    if (input.kind !== 'message') {
      stderr.write(`${obey(conversation, input)}\n`);
      continue;
    }
    const answer = await conversation.answer(input.text, (text) => void (json || stdout.write(text)), signal);
    stdout.write(json ? `${JSON.stringify({ role: 'assistant', ...answer })}\n` : '\n');
    if (!json) stderr.write(`${remarks(answer).join('\n')}\n`);
    if (signal.aborted) break;
  }
  if (signal.aborted) throw new HadalError('HADAL_ERR_ABORTED', '[chat] interrupted');
}

function remarks(answer: Answer): string[] {
  const { dropped, finishReason } = answer;
  return [
    ...(dropped === 0 ? [] : [`the ${dropped} oldest messages were forgotten: the conversation became too long`]),
    ...(finishReason === 'length' ? ['the answer ends at its limit of tokens'] : []),
    speedLine(answer, [answer]),
  ];
}
