import type { Command } from 'commander';
import { type GenerationFlags, gather, withGenerationFlags } from './generation-flags.js';
import { described } from './output.js';

/** Flags of `hadal generate`. */
export interface GenerateFlags extends GenerationFlags {
  prompt?: string[];
  promptFile?: string[];
}

/** `hadal generate`. */
export function registerGenerate(program: Command): void {
  const command = described(program.command('generate'), 'Continue a text with a trained model.', [
    'generate --model runs/shallow-1/checkpoints/step-00000400 --prompt "The state of the Union"',
    'generate --model DeepSeek-V2-Lite/ --prompt "def add(a, b):" --temperature 0 --stop "class " --max-tokens 40',
    'generate --model stories260K.gguf --prompt "Once upon a time" --prompt "One day" --json',
  ])
    .requiredOption('--model <path>', 'a checkpoint, a model directory of Hugging Face, or a GGUF file')
    .option('--prompt <text>', 'text to continue; several are continued together', gather)
    .option('--prompt-file <path>', 'file with a text to continue, - for standard input', gather);
  withGenerationFlags(command, { maxTokens: 256, temperature: 1, topP: 1 }).action(async (flags: GenerateFlags) => {
    const { runGenerate } = await import('./run-generate.js');
    await runGenerate(flags);
  });
}
