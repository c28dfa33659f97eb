import { HadalError } from '../core/errors.js';
import type { ChatOptions } from '../generate/chat.js';
import type { ChatMessage } from '../generate/chat-template.js';
import type { GenerationSummary } from '../generate/generate.js';
import type { LoadedModel } from '../generate/loaded-model.js';

/** What an answer was, beside its text. */
export interface Answer extends GenerationSummary {
  content: string;
  /** Messages that were forgotten because the conversation became too long. */
  dropped: number;
}

/** A conversation that remembers as much as the model can read. */
export class Conversation {
  #turns: ChatMessage[] = [];

  /** @param system - system prompt; none where it is empty */
  constructor(
    private readonly model: LoadedModel,
    private readonly options: ChatOptions & { maxTokens: number },
    public system: string,
  ) {}

  /** Forgets everything but the system prompt. */
  reset(): void {
    this.#turns = [];
  }

  /** @throws HadalError when messages cannot become a prompt, so that one need not wait for the first message */
  async check(): Promise<void> {
    await this.#prompt([{ role: 'user', content: 'Hi' }]);
  }

  /**
   * Answers a message. Both are remembered, an answer that was cut short as far as it went; after an error, or when no
   * token came, neither is.
   *
   * @param onText - told what comes
   * @throws HadalError HADAL_ERR_DATA for a message that is too long on its own, and what `chat` throws
   */
  async answer(content: string, onText: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    const turns = [...this.#turns, { role: 'user', content }];
    const { prompt, kept } = await this.#fitting(turns);
    let text = '';
    const pieces = this.model.generate(prompt, { ...this.options, signal });
    for (;;) {
      const { value, done } = await pieces.next();
      if (!done) {
        text += value.text;
        onText(value.text);
        continue;
      }
      if (value.generatedTokens > 0) this.#turns = [...kept, { role: 'assistant', content: text }];
      return { content: text, ...value, dropped: turns.length - kept.length };
    }
  }

  /** Leaves out the oldest messages until there is room for an answer. */
  async #fitting(turns: readonly ChatMessage[]): Promise<{ prompt: number[]; kept: readonly ChatMessage[] }> {
    const { maxPositions } = this.model.model;
    const room = Math.min(this.options.maxTokens, Math.ceil(maxPositions / 2));
    for (let kept = turns; ; ) {
      const prompt = await this.#prompt(kept);
      if (prompt.length + room <= maxPositions) return { prompt, kept };
      const next = kept.findIndex(({ role }, i) => i > 0 && role === 'user');
      if (next > 0) kept = kept.slice(next);
      else if (prompt.length <= maxPositions) return { prompt, kept };
      else {
        throw new HadalError(
          'HADAL_ERR_DATA',
          `[chat] expected at most ${maxPositions} tokens, got ${prompt.length} of this message alone`,
        );
      }
    }
  }

  async #prompt(turns: readonly ChatMessage[]): Promise<number[]> {
    const system = this.system === '' ? [] : [{ role: 'system', content: this.system }];
    const prompt = await this.model.chatPrompt([...system, ...turns], this.options);
    return [...((await this.model.tokenizer?.encode(prompt)) ?? [])];
  }
}
