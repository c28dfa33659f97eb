import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ChatMessage } from '../../src/generate/chat-template.js';
import { loadModel } from '../../src/generate/loaded-model.js';
import { goldenDir } from '../goldens/golden.js';
import { withDirectory } from '../session/model-copies.js';
import { withTextModel, writeTextModel } from './text-model.js';

const template =
  "{{ bos_token }}{% for m in messages %}<|im_end|>{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_end|>{{ mood | default('assistant') }}:{% endif %}";
const config = { chat_template: template, bos_token: '<s>', eos_token: '</s>' };
const messages: ChatMessage[] = [
  { role: 'system', content: 'Be brief' },
  { role: 'user', content: 'Hi' },
];
const prompt = '<s><|im_end|>system: Be brief<|im_end|>user: Hi<|im_end|>assistant:';
const options = { seed: 4, temperature: 2, maxTokens: 12 };

describe('chat', () => {
  it('continues what the template makes of the messages', () =>
    withTextModel(
      'deepseek_v3',
      async (model) => {
        expect(await model.chatPrompt(messages)).toBe(prompt);
        expect(await model.chatPrompt(messages, { addGenerationPrompt: false })).toBe(prompt.slice(0, -20));
        const variables = { templateVariables: { mood: 'angry', bos_token: '' } };
        expect(await model.chatPrompt(messages, variables)).toBe(`${prompt.slice(3, -10)}angry:`);
        const [bos, end] = ['<s>', '<|im_end|>'].map((token) => model.tokenizer?.idOf(token) as number);
        const encoded = await model.tokenizer?.encode(prompt);
        expect(encoded?.[0]).toBe(bos);
        expect(encoded?.filter((id) => id === end)).toHaveLength(3);
        const expected = await model.generateText([...(encoded ?? [])], options);
        const { ids, text, promptTokens, finishReason } = await model.chatText(messages, options);
        expect(ids).toEqual(expected.ids);
        expect(promptTokens).toBe(encoded?.length);
        const pieces = [];
        for await (const piece of model.chat(messages, { ...options, template })) pieces.push(piece);
        expect(pieces.map((piece) => piece.text).join('')).toBe(text);
        expect(pieces.at(-1)?.finishReason).toBe(finishReason);
      },
      config,
    ));

  it('takes the template by name where there are several', () =>
    withTextModel(
      'deepseek_v3',
      async (model) => {
        expect(await model.chatPrompt(messages)).toBe('Hi');
        expect(await model.chatPrompt(messages, { templateName: 'loud' })).toBe('HI');
        await expect(model.chatPrompt(messages, { templateName: 'quiet' })).rejects.toMatchObject({
          code: 'HADAL_ERR_CONFIG',
          message: expect.stringMatching(/named 'quiet', got default, loud/),
        });
      },
      {
        chat_template: [
          { name: 'default', template: '{{ messages[-1].content }}' },
          { name: 'loud', template: '{{ messages[-1].content | upper }}' },
        ],
      },
    ));

  it('takes the template from its own file, which saving keeps', () =>
    withDirectory(async (dir) => {
      await writeTextModel('deepseek_v3', dir, { ...config, chat_template: 'from the configuration' });
      await writeFile(join(dir, 'chat_template.jinja'), template);
      using model = await loadModel(dir, { device: 'cpu', threads: 1 });
      expect(await model.chatPrompt(messages)).toBe(prompt);
      await model.save(join(dir, 'saved'));
      using saved = await loadModel(join(dir, 'saved'), { device: 'cpu', threads: 1 });
      expect(await saved.chatPrompt(messages)).toBe(prompt);
      const written = JSON.parse(await readFile(join(dir, 'saved', 'tokenizer_config.json'), 'utf8')) as object;
      expect(written).toEqual({ ...config, chat_template: template });
    }));

  it('says what to do where there is no template, and what a template refuses', async () => {
    const missing = { code: 'HADAL_ERR_CONFIG', message: expect.stringMatching(/--template file\.jinja/) };
    await withTextModel('deepseek_v3', async (model) => {
      await expect(model.chatText(messages)).rejects.toMatchObject(missing);
      await expect(
        model.chatText(messages, { template: "{{ raise_exception('no system prompt, please') }}" }),
      ).rejects.toMatchObject({ code: 'HADAL_ERR_DATA', message: expect.stringContaining('no system prompt, please') });
      await expect(model.chatText([], { template })).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
    });
    using mute = await loadModel(goldenDir('deepseek_v3'), { device: 'cpu', threads: 1 });
    await expect(mute.chatText(messages)).rejects.toMatchObject(missing);
  });
});
