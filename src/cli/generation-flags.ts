// What `generate` and `chat` have in common: flags, and the line that tells the speed.
import type { Command } from 'commander';
import type { GenerateOptions, GenerationTimes } from '../generate/generate.js';
import { type CommonFlags, numberBetween, oneOf, wholeNumber } from './output.js';

/** Flags of a command that generates, as commander gives them. */
export interface GenerationFlags extends CommonFlags {
  model: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  seed?: number;
  stop?: string[];
  speculative?: boolean;
  cache?: 'latent' | 'expanded';
  device?: string;
  dtype?: string;
  threads?: number;
  pinThreads?: boolean;
}

/** Gathers what a flag is given several times. */
export const gather = (value: string, earlier: readonly string[] = []): string[] => [...earlier, value];

/** Adds the flags. @param defaults - of flags that commands differ in */
export function withGenerationFlags(
  command: Command,
  { maxTokens, temperature, topP }: Pick<GenerationFlags, 'maxTokens' | 'temperature' | 'topP'>,
): Command {
  return command
    .option('--max-tokens <n>', 'the most tokens to generate', wholeNumber(1), maxTokens)
    .option(
      '--temperature <t>',
      'what logits are divided by; 0 takes the likeliest token',
      numberBetween(0, 100),
      temperature,
    )
    .option('--top-k <k>', 'only the likeliest k tokens', wholeNumber(1))
    .option('--top-p <p>', 'only the likeliest tokens that together have probability p', numberBetween(0, 1), topP)
    .option(
      '--min-p <p>',
      "only tokens that have this share of the likeliest one's probability",
      numberBetween(0, 1),
      0,
    )
    .option('--repetition-penalty <r>', 'above 1 what occurred becomes less likely', numberBetween(0.01, 100), 1)
    .option('--seed <n>', 'the same seed, the same text', wholeNumber(0))
    .option('--stop <text>', 'end before this text; may be given several times', gather)
    .option(
      '--speculative',
      "draft tokens with the model's multi-token-prediction modules: the same text in fewer steps",
    )
    .option('--cache <form>', 'what is kept of earlier tokens: latent or expanded', oneOf(['latent', 'expanded']))
    .option('--device <name>', 'auto, cpu, cuda, cuda:<number> or cuda-sim')
    .option('--dtype <name>', 'fp32, bf16 or fp16')
    .option('--threads <n>', 'threads of the computation', wholeNumber(1))
    .option('--pin-threads', 'bind each of them to a processor of its own (Linux)');
}

/** The options of the API that the flags stand for. */
export function generateOptionsFrom({
  maxTokens,
  temperature,
  topK,
  topP,
  minP,
  repetitionPenalty,
  seed,
  stop,
  speculative,
  cache,
}: GenerationFlags): GenerateOptions {
  return {
    maxTokens,
    temperature,
    topP,
    minP,
    repetitionPenalty,
    ...(topK === undefined ? {} : { topK }),
    ...(seed === undefined ? {} : { seed }),
    ...(stop === undefined ? {} : { stop }),
    ...(speculative === undefined ? {} : { speculative }),
    ...(cache === undefined ? {} : { cache }),
  };
}

/** `prefill 12 tokens, 345.2 tokens/s; decode 255 tokens, 43.1 tokens/s; 61.0 % of 100 drafts accepted`. */
export function speedLine(
  { prefillMs, tokensPerSecond, drafted, accepted }: GenerationTimes,
  prompts: readonly { promptTokens: number; generatedTokens: number }[],
): string {
  const count = (field: 'promptTokens' | 'generatedTokens') => prompts.reduce((sum, prompt) => sum + prompt[field], 0);
  const read = count('promptTokens');
  const parts = [
    `prefill ${read} tokens${prefillMs === 0 ? '' : `, ${((1000 * read) / prefillMs).toFixed(1)} tokens/s`}`,
    `decode ${count('generatedTokens')} tokens${tokensPerSecond === null ? '' : `, ${tokensPerSecond.toFixed(1)} tokens/s`}`,
    ...(drafted === 0 ? [] : [`${((100 * accepted) / drafted).toFixed(1)} % of ${drafted} drafts accepted`]),
  ];
  return parts.join('; ');
}

/** A line that stands back on a terminal. */
export function dimmed(text: string, { isTTY }: NodeJS.WriteStream): string {
  return isTTY && !process.env.NO_COLOR ? `\x1b[2m${text}\x1b[22m` : text;
}
