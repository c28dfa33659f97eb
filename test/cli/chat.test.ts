import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChatFlags } from '../../src/cli/chat.js';
import { type ChatStreams, parseInput } from '../../src/cli/chat-input.js';
import { runChat } from '../../src/cli/run-chat.js';
import type { ChatMessage } from '../../src/generate/chat-template.js';
import { type LoadedModel, loadModel } from '../../src/generate/loaded-model.js';
import { writeTextModel } from '../generate/text-model.js';

const template =
  "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}a:{% endif %}{% if messages[-1].content == 'refuse' %}{{ raise_exception('I refuse') }}{% endif %}";
let dir: string;
let model: LoadedModel;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hadal-chat-'));
  await writeTextModel('deepseek_v3', dir, { chat_template: template }, { max_position_embeddings: 120 });
  model = await loadModel(dir, { device: 'cpu', threads: 1 });
});
afterAll(async () => {
  model.dispose();
  await rm(dir, { recursive: true });
});

const sampling = { maxTokens: 8, temperature: 1, topP: 1, minP: 0, repetitionPenalty: 1, seed: 3 };
const flagsOf = (more: Partial<ChatFlags> = {}): ChatFlags => ({
  model: dir,
  system: '',
  threads: 1,
  ...sampling,
  ...more,
});
const user = (content: string): ChatMessage => ({ role: 'user', content });
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content });
const system = (content: string): ChatMessage => ({ role: 'system', content });
const answerTo = async (...messages: ChatMessage[]) => (await model.chatText(messages, sampling)).text;

/** Streams to write to and read from. */
function streamsOf(isTTY: boolean) {
  const make = () => Object.assign(new PassThrough(), { isTTY, columns: 200 });
  const [stdin, stdout, stderr] = [make(), make(), make()];
  const read = { out: '', err: '', all: '' };
  stdout.on('data', (text) => {
    read.out += text;
    read.all += text;
  });
  stderr.on('data', (text) => {
    read.err += text;
    read.all += text;
  });
  return { stdin, read, streams: { stdin, stdout, stderr } as unknown as ChatStreams };
}

/** Runs a chat over lines that are all there from the start. */
async function piped(lines: string[], flags: Partial<ChatFlags> = {}) {
  const { stdin, read, streams } = streamsOf(false);
  stdin.end(lines.map((line) => `${line}\n`).join(''));
  await runChat(flagsOf(flags), streams);
  return read;
}

const jsonLines = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { role: string; content: string; dropped: number; promptTokens: number });

describe('a line', () => {
  it.each([
    ['Hello there ', { kind: 'message', text: 'Hello there' }],
    ['   ', { kind: 'nothing' }],
    ['/reset', { kind: 'reset' }],
    ['/exit', { kind: 'exit' }],
    ['/system Be brief.', { kind: 'system', text: 'Be brief.' }],
    ['/system', { kind: 'system', text: '' }],
    ['/quit now', { kind: 'unknown', text: '/quit' }],
    ['/etc/hosts is what?', { kind: 'message', text: '/etc/hosts is what?' }],
    ['{"content": "two\\nlines"}', { kind: 'message', text: 'two\nlines' }],
    ['{"role": "system", "content": "s"}', { kind: 'system', text: 's' }],
    ['"a text"', { kind: 'message', text: 'a text' }],
  ])('%s is understood', (line, input) => expect(parseInput(line)).toEqual(input));

  it.each(['{"content": 3}', '{"role": "assistant", "content": "x"}', '{"content": ', '{}', '"x" y'])(
    '%s is refused',
    (line) => expect(() => parseInput(line)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_DATA' })),
  );
});

describe('lines from a pipe', () => {
  it('are answered one by one, each with what came before', async () => {
    const { out, err } = await piped(['Hi', '', '{"content": "And?"}', '/exit', 'never']);
    const first = await answerTo(user('Hi'));
    const second = await answerTo(user('Hi'), assistant(first), user('And?'));
    expect(out).toBe(`${first}\n${second}\n`);
    expect(err).toMatch(
      /^(the answer ends.*\n)?prefill \d+ tokens, [\d.]+ tokens\/s; decode \d+ tokens, [\d.]+ tokens\/s\n/,
    );
  });

  it('are answered by JSON when asked', async () => {
    const { out, err } = await piped(['Hi', '/system s', 'Yo', '/reset', 'Yo'], { json: true, system: 'x' });
    const answers = jsonLines(out);
    const first = await answerTo(system('x'), user('Hi'));
    expect(answers.map(({ content }) => content)).toEqual([
      first,
      await answerTo(system('s'), user('Hi'), assistant(first), user('Yo')),
      await answerTo(system('s'), user('Yo')),
    ]);
    expect(answers[0]).toMatchObject({ role: 'assistant', dropped: 0, generatedTokens: expect.any(Number) });
    expect(err).toBe('the system prompt is set\nforgotten\n');
  });

  it('drop the oldest turns once they are too long, not the system prompt', async () => {
    const lines = ['first', 'second', 'third', 'fourth'].map((word) => `the ${word} message is not long`);
    const answers = jsonLines((await piped(lines, { json: true, system: 'S' })).out);
    const dropped = answers.map((answer) => answer.dropped);
    expect(dropped[0]).toBe(0);
    expect(dropped.some((count) => count > 0)).toBe(true);
    expect(dropped.every((count) => count % 2 === 0)).toBe(true);
    let history: ChatMessage[] = [];
    for (const [i, { content, promptTokens }] of answers.entries()) {
      history = [...history, user(lines[i] as string)].slice(dropped[i]);
      expect(content).toBe(await answerTo(system('S'), ...history));
      expect(promptTokens).toBeLessThanOrEqual(120 - sampling.maxTokens);
      history.push(assistant(content));
    }
    const noticed = await piped(lines, { system: 'S' });
    expect(noticed.err).toMatch(/the 2 oldest messages were forgotten/);
    await expect(piped(['x'.repeat(200)])).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: expect.stringMatching(/at most 120 tokens, got 2\d\d/),
    });
  });

  it('are not read where there is no template, or a wrong one', async () => {
    const bare = await mkdtemp(join(tmpdir(), 'hadal-chat-'));
    try {
      await writeTextModel('deepseek_v3', bare);
      const missing = { code: 'HADAL_ERR_CONFIG', message: expect.stringMatching(/--template file\.jinja/) };
      await expect(piped([], { model: bare })).rejects.toMatchObject(missing);
      const file = join(bare, 'own.jinja');
      writeFileSync(file, '{{ messages[-1].content | upper }}');
      const { out } = await piped(['hi'], { model: bare, template: file, json: true });
      expect(jsonLines(out)[0]?.content).toBe((await model.generateText('HI', { ...sampling, addBos: false })).text);
    } finally {
      await rm(bare, { recursive: true });
    }
    await expect(piped([], { template: 'nowhere.jinja' })).rejects.toMatchObject({ code: 'HADAL_ERR_IO' });
    await expect(piped(['refuse'])).rejects.toMatchObject({ message: expect.stringContaining('I refuse') });
  });
});

describe('a terminal', () => {
  it('asks, answers, obeys commands, survives errors, and leaves', async () => {
    const { stdin, read, streams } = streamsOf(true);
    const chat = runChat(flagsOf({ json: false }), streams);
    const say = async (text: string, sign: RegExp) => {
      read.all = '';
      stdin.write(text);
      await expect.poll(() => read.all, { timeout: 20_000, interval: 20 }).toMatch(sign);
      await expect.poll(() => read.all, { timeout: 20_000, interval: 20 }).toMatch(/> [^>]*$/);
    };
    await expect.poll(() => read.out, { timeout: 20_000 }).toContain('> ');
    const first = await answerTo(user('Hi'));
    await say('Hi\r', /decode/);
    expect(read.all).toContain(`${first}\n`);
    await say('refuse\r', /I refuse/);
    await say('/system Go\r', /is set/);
    await say('/nonsense\r', /expected \/reset, .* got \/nonsense/);
    const second = await answerTo(system('Go'), user('Hi'), assistant(first), user('pasted\nlines'));
    await say('pasted\rlines\r', /decode/);
    expect(read.all).toContain(`${second}\n`);
    await say('/reset\r', /forgotten/);
    stdin.write('/exit\r');
    await chat;
  });

  it('Ctrl-C stops the answer, and the chat at the prompt', async () => {
    const before = process.listenerCount('SIGINT');
    const long = { temperature: 5, maxTokens: 100 };
    const lengthOf = async (seed: number) =>
      (await model.chatText([user('Hi')], { ...sampling, ...long, seed })).generatedTokens;
    let seed = 0;
    while ((await lengthOf(seed)) < 60) seed++;
    const { stdin, read, streams } = streamsOf(true);
    const chat = runChat(flagsOf({ ...long, seed }), streams);
    await expect.poll(() => read.out, { timeout: 20_000 }).toContain('> ');
    let isAnswering = false;
    streams.stdout.on('data', (text: Buffer) => {
      if (isAnswering) process.emit('SIGINT');
      isAnswering ||= `${text}`.includes('\n');
    });
    stdin.write('Hi\r');
    await expect.poll(() => read.err, { timeout: 20_000 }).toMatch(/decode/);
    expect(Number(/decode (\d+) tokens/.exec(read.err)?.[1])).toBeLessThan(50);
    await new Promise((resolve) => setTimeout(resolve, 600));
    stdin.write('\x03');
    await chat;
    expect(process.listenerCount('SIGINT')).toBe(before);
  });
});
