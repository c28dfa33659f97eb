import type { Command } from 'commander';
import { type GenerationFlags, withGenerationFlags } from './generation-flags.js';
import { described } from './output.js';

/** Flags of `hadal chat`. */
export interface ChatFlags extends GenerationFlags {
  system: string;
  template?: string;
  templateName?: string;
}

/** `hadal chat`. */
export function registerChat(program: Command): void {
  const command = described(program.command('chat'), 'Talk with a model that was trained on conversations.', [
    'chat --model DeepSeek-R1-Distill-Qwen-1.5B/',
    'chat --model model.gguf --template chatml.jinja --system "Answer in one sentence."',
    `chat --model model.gguf --json < questions.jsonl`,
  ])
    .requiredOption('--model <path>', 'a checkpoint, a model directory of Hugging Face, or a GGUF file')
    .option('--system <text>', 'system prompt', '')
    .option('--template <path>', "file with a Jinja chat template in place of the model's own")
    .option('--template-name <name>', "which of the model's templates, where it has several");
  withGenerationFlags(command, { maxTokens: 1024, temperature: 0.7, topP: 0.95 })
    .addHelpText(
      'after',
      '\nOn a terminal: /reset forgets, /system <text> sets the system prompt, /exit leaves; Ctrl-C stops an answer, at the prompt it leaves.\nElse every line of the standard input is a message: text, or JSON such as {"role": "user", "content": "Hi"}.',
    )
    .action(async (flags: ChatFlags) => {
      const { runChat } = await import('./run-chat.js');
      await runChat(flags);
    });
}
