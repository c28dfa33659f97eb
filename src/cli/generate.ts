import type { Command } from 'commander';
import { type CommonFlags, described, numberBetween, wholeNumber } from './output.js';

interface GenerateFlags extends CommonFlags {
  model: string;
  prompt: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP: number;
  seed?: number;
  device?: string;
  dtype?: string;
  threads?: number;
}

/** `hadal generate`. */
export function registerGenerate(program: Command): void {
  described(program.command('generate'), 'Continue a text with a trained model.', [
    'generate --model runs/shallow-1/checkpoints/step-00000400 --prompt "The state of the Union"',
    'generate --model DeepSeek-V2-Lite/ --prompt "def add(a, b):" --temperature 0 --max-tokens 40',
  ])
    .requiredOption('--model <dir>', 'model directory: a checkpoint, or one of Hugging Face')
    .requiredOption('--prompt <text>', 'text to continue')
    .option('--max-tokens <n>', 'the most tokens to generate', wholeNumber(1), 256)
    .option('--temperature <t>', 'what logits are divided by; 0 takes the likeliest token', numberBetween(0, 100), 1)
    .option('--top-k <k>', 'only the likeliest k tokens', wholeNumber(1))
    .option('--top-p <p>', 'only the likeliest tokens that together have probability p', numberBetween(0, 1), 1)
    .option('--seed <n>', 'the same seed, the same text', wholeNumber(0))
    .option('--device <name>', 'auto or cpu')
    .option('--dtype <name>', 'fp32, bf16 or fp16')
    .option('--threads <n>', 'threads of the computation', wholeNumber(1))
    .action(generate);
}

async function generate({
  model: dir,
  prompt,
  json,
  maxTokens,
  temperature,
  topK,
  topP,
  seed,
  ...flags
}: GenerateFlags): Promise<void> {
  const [{ loadModel }, { abortOnInterrupt }, { printJson, printLine }, { HadalError }] = await Promise.all([
    import('../generate/loaded-model.js'),
    import('./interrupt.js'),
    import('./output.js'),
    import('../core/errors.js'),
  ]);
  using signal = abortOnInterrupt(() => {});
  using model = await loadModel(dir, flags);
  const sampling = {
    maxTokens,
    temperature,
    topP,
    signal,
    ...(topK === undefined ? {} : { topK }),
    ...(seed === undefined ? {} : { seed }),
  };
  if (!json) process.stdout.write(prompt);
  for await (const piece of model.generate(prompt, sampling)) {
    if (json) printJson(piece);
    else process.stdout.write(piece.text);
  }
  if (!json) printLine();
  if (signal.aborted) throw new HadalError('HADAL_ERR_ABORTED', '[generate] interrupted');
}
